//! A page is a list of parts. Each is replaced on its own when its words have changed.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use askama::Template;

/// A piece of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is called in the page: letters, digits and dashes.
    pub id: String,
    /// Its inside.
    pub html: String,
    /// Another one whenever the inside is another one.
    pub version: String,
    /// A screen reader tells when it changes.
    pub told: bool,
}

impl Part {
    /// Renders a part.
    pub fn new(id: impl Into<String>, template: &impl Template) -> askama::Result<Self> {
        let html = template.render()?;
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        Ok(Self { id: id.into(), html, version: format!("{:x}", hasher.finish()), told: false })
    }

    /// The same, and a screen reader tells when it changes.
    pub fn told(self) -> Self {
        Self { told: true, ..self }
    }
}

/// What a page consists of, but for its frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// What the browser shows in its tab.
    pub title: String,
    /// From top to bottom.
    pub parts: Vec<Part>,
}

/// Parts between the marks by which the script finds them.
#[derive(Template)]
#[template(path = "parts.html")]
pub struct Parts<'a> {
    pub title: &'a str,
    pub parts: Vec<&'a Part>,
}

impl Body {
    /// All parts, or those that are asked for.
    pub fn parts(&self, wanted: Option<&BTreeSet<&str>>) -> Parts<'_> {
        let is_wanted = |part: &&Part| wanted.is_none_or(|wanted| wanted.contains(part.id.as_str()));
        Parts { title: &self.title, parts: self.parts.iter().filter(is_wanted).collect() }
    }

    /// What the script compares with what it shows.
    pub fn versions(&self) -> String {
        self.parts.iter().map(|part| serde_json::json!([part.id, part.version])).collect::<serde_json::Value>().to_string()
    }
}
