//! What one way of asking a tablet has brought lately.

use std::time::Duration;

/// One way of asking: whether it works, since when it does not, and how it fails. Every duration is an age: how long ago.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Channel {
    /// When it worked last; `None` = never since this elector looks.
    pub last_good: Option<Duration>,
    /// How it fails now; `None` while the last question was answered, or none was asked yet.
    pub failing: Option<Failing>,
}

/// An unbroken row of failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// When the first failure of the row was known.
    pub since: Duration,
    /// When the last one was.
    pub last: Duration,
    /// How the last one failed.
    pub class: FailureClass,
    /// The last one's words.
    pub words: String,
    /// How many they are.
    pub count: u32,
}

/// How a question fails, from what proves most to what proves least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// Its host answered that nobody listens there.
    Refused,
    /// The connection was closed from the other side.
    Closed,
    /// It takes no further connection (MySQL's error 1040).
    TooManyConnections,
    /// No answer within the limit: silent, frozen, slow, or cut off from us.
    Silent,
    /// It answered with an error that says nothing about its life, such as a wrong password.
    Answered,
}

impl FailureClass {
    /// Whether nothing at all was heard of it that shows life: one that is full, or answers with an error, lives.
    pub fn shows_no_life(self) -> bool {
        matches!(self, Self::Refused | Self::Closed | Self::Silent)
    }
}

impl Channel {
    /// Whether the last question was answered.
    pub fn works(&self) -> bool {
        self.last_good.is_some() && self.failing.is_none()
    }

    /// Whether it fails for that long at least: nothing was heard for so long, however often it was asked.
    pub fn fails_for(&self, at_least: Duration) -> bool {
        match (&self.failing, self.last_good) {
            (None, _) => false,
            (Some(_), Some(good)) => good >= at_least,
            (Some(failing), None) => failing.since >= at_least,
        }
    }

    /// Whether it fails in a way that leaves no doubt that nobody is there: refused or closed.
    pub fn is_gone(&self) -> bool {
        matches!(self.failing, Some(Failing { class: FailureClass::Refused | FailureClass::Closed, .. }))
    }
}
