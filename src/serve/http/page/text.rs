//! Text that others have written, made harmless: it stays text, it shows what it is, and it has an end.

use std::{borrow::Cow, fmt};

/// What every value in a template goes through (`askama.toml`). Beyond what HTML needs it makes characters visible that would hide or
/// reorder others: a hostname must not be able to look like another one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl askama::filters::Escaper for Plain {
    fn write_escaped_str<W: fmt::Write>(&self, mut dest: W, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, c) in text.char_indices() {
            let entity = match c {
                '<' => "&lt;",
                '>' => "&gt;",
                '&' => "&amp;",
                '"' => "&#34;",
                '\'' => "&#39;",
                c if is_hidden(c) => "",
                _ => continue,
            };
            dest.write_str(&text[written..at])?;
            written = at + c.len_utf8();
            match entity {
                "" => write!(dest, "\u{27e8}U+{:04X}\u{27e9}", c as u32)?,
                entity => dest.write_str(entity)?,
            }
        }
        dest.write_str(&text[written..])
    }
}

/// Characters without a shape of their own: controls, marks of direction, joiners, tags.
fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && c != '\n' && c != '\t';
    }
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The beginning of a text that may be endless, with a sign where it was cut.
pub fn short(text: &str, chars_max: usize) -> Cow<'_, str> {
    // No character is shorter than a byte.
    if text.len() <= chars_max {
        return Cow::Borrowed(text);
    }
    match text.char_indices().nth(chars_max) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}\u{2026} ({} bytes)", &text[..end], text.len())),
    }
}

/// A name in a table.
pub fn name(text: &str) -> Cow<'_, str> {
    short(text, 80)
}

/// A sentence.
pub fn sentence(text: &str) -> Cow<'_, str> {
    short(text, 2000)
}

/// A piece of a path or a query, with everything that has a meaning there taken out.
pub fn in_url(text: &str) -> String {
    let mut url = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => url.push(byte as char),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use askama::filters::Escaper;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Plain.write_escaped_str(&mut out, text).unwrap();
        out
    }

    #[test]
    fn markup_stays_text_and_hidden_characters_are_seen() {
        assert_eq!(escaped(r#"<script>"a"&'b'"#), "&lt;script&gt;&#34;a&#34;&amp;&#39;b&#39;");
        assert_eq!(
            escaped("db\u{202e}gpj.\0\u{200b}"),
            "db\u{27e8}U+202E\u{27e9}gpj.\u{27e8}U+0000\u{27e9}\u{27e8}U+200B\u{27e9}"
        );
        assert_eq!(escaped("größer\nals"), "größer\nals");
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(short("öö", 2), "öö");
        assert_eq!(short("öööö", 2), "öö\u{2026} (8 bytes)");
        assert_eq!(in_url("a/b ?ö"), "a%2Fb%20%3F%C3%B6");
    }
}
