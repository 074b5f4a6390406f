//! How a command went, kept until the page to which it leads has shown it.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// Sentences that are kept; the oldest goes first.
const KEPT_MAX: usize = 64;

/// A sentence for whoever gave a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said(pub String);

/// The last of them. The address of a page holds a number only, so that no link can put words into our mouth.
#[derive(Default)]
pub struct Sentences(Mutex<(u64, VecDeque<(u64, Said)>)>);

impl Sentences {
    /// Keeps a sentence; returns its number.
    pub fn keep(&self, sentence: String) -> u64 {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let number = kept.0;
        kept.1.push_back((number, Said(sentence)));
        if kept.1.len() > KEPT_MAX {
            kept.1.pop_front();
        }
        number
    }

    /// The sentence of that number, while it is kept.
    pub fn find(&self, number: u64) -> Option<Said> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.1.iter().find(|(kept, _)| *kept == number).map(|(_, said)| said.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sentences_are_kept_and_no_more() {
        let sentences = Sentences::default();
        let numbers: Vec<u64> = (0..=KEPT_MAX).map(|at| sentences.keep(at.to_string())).collect();
        assert_eq!((sentences.find(numbers[0]), sentences.find(numbers[1])), (None, Some(Said("1".to_owned()))));
        assert_eq!(sentences.find(u64::MAX), None);
    }
}
