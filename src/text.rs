//! Texts for persons: short enough for where they go, whole where an error has causes.

use std::error::Error;

/// The beginning of a text, at most so many bytes, cut between characters.
pub fn within(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
    &text[..end]
}

/// An error and what lies beneath it.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (bytes_max, expected) in [(0, ""), (1, ""), (2, "\u{f6}"), (3, "\u{f6}"), (4, "\u{f6}\u{f6}"), (9, "\u{f6}\u{f6}")] {
            assert_eq!(within("\u{f6}\u{f6}", bytes_max), expected, "{bytes_max}");
        }
    }
}
