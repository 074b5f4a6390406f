//! Forms: plain HTML that works in every browser.

use askama::Template;

/// A form with what stands around it.
#[derive(Template)]
#[template(path = "form.html")]
pub struct Form {
    pub title: String,
    pub intro: String,
    pub method: &'static str,
    pub action: String,
    pub fields: Vec<Field>,
    pub hidden: Vec<(&'static str, String)>,
    pub submit: &'static str,
    /// It changes who takes writes, or stops what protects them.
    pub is_danger: bool,
    pub back: (String, &'static str),
}

/// Something to fill in.
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub hint: &'static str,
    pub kind: Kind,
}

/// How it is filled in.
pub enum Kind {
    /// Words; with the value that is there at first.
    Text { value: String, required: bool },
    /// One of these, as value and words; the first is chosen.
    Choice(Vec<(String, String)>),
}

impl Field {
    pub fn text(name: &'static str, label: &'static str, hint: &'static str, value: String, required: bool) -> Self {
        Self { name, label, hint, kind: Kind::Text { value, required } }
    }

    pub fn choice(name: &'static str, label: &'static str, hint: &'static str, choices: Vec<(String, String)>) -> Self {
        Self { name, label, hint, kind: Kind::Choice(choices) }
    }
}
