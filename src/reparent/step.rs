//! The steps of a reparent, and the places where a test may let the process die.

use std::{fmt, str::FromStr};

/// One step. Each says what it needs, what it does, and what stands if the process dies half-way; what cannot be undone says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Needs the lock. Reads topology and tablets. Leaves nothing.
    Survey,
    /// Needs the survey. Points the elect at the current primary (again) and lets it apply everything up to now. Leaves a replica that
    /// replicates as it should.
    CatchUp,
    /// Needs the journalled intent. Makes the primary read-only, and may stop the IO thread of one replica that is not needed. Leaves a
    /// read-only primary, which the next run makes writable again. Undone by `UndoDemotePrimary` and a start of that thread.
    Demote,
    /// Needs the journalled intent. Emergency only: demotes or fences the old primary and stops the replicas' IO threads. Leaves stopped
    /// threads, which the next run starts, or stops again and points at its elect.
    Stop,
    /// Needs the demoted primary's position. The elect applies everything up to it; in an emergency it
    /// applies what it received, and ackers are pointed at it. Leaves what `Demote` or `Stop` left.
    Apply,
    /// Needs the journalled intent: **the point of no return**. Makes the elect primary while the replicas are pointed at it. Leaves a
    /// shard that the next run leads forward to the elect, whether or not it became primary.
    Promote,
    /// Needs a primary. Writes the reparent-journal row there and waits until everybody follows. Leaves replicas that the next run, or
    /// the same command again, points at the primary.
    Follow,
    /// Needs nothing. Marks the journal as finished and frees the lock. Leaves a journal that the next run finds to be true already.
    Finish,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Self; 8] =
        [Self::Survey, Self::CatchUp, Self::Demote, Self::Stop, Self::Apply, Self::Promote, Self::Follow, Self::Finish];
    /// Those of a planned reparent.
    pub const PLANNED: [Self; 7] =
        [Self::Survey, Self::CatchUp, Self::Demote, Self::Apply, Self::Promote, Self::Follow, Self::Finish];
    /// Those of an emergency reparent.
    pub const EMERGENCY: [Self; 6] = [Self::Survey, Self::Stop, Self::Apply, Self::Promote, Self::Follow, Self::Finish];

    /// The name in logs, events and `VTELECTOR_DIE_AT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Survey => "survey",
            Self::CatchUp => "catch-up",
            Self::Demote => "demote",
            Self::Stop => "stop",
            Self::Apply => "apply",
            Self::Promote => "promote",
            Self::Follow => "follow",
            Self::Finish => "finish",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which edge of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// Its intent is written where it has one; nothing of it is sent yet.
    Before,
    /// It is done; nothing of the next one is written.
    After,
}

/// Fault injection: the process aborts at this edge of this step. Written `STEP:before` or `STEP:after`, as in `VTELECTOR_DIE_AT=promote:before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DieAt {
    /// The step.
    pub step: Step,
    /// Its edge.
    pub edge: Edge,
}

/// A place to die at that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no step boundary; write STEP:before or STEP:after with STEP one of {steps}")]
pub struct DieAtError {
    given: String,
    steps: String,
}

impl FromStr for DieAt {
    type Err = DieAtError;

    fn from_str(text: &str) -> Result<Self, DieAtError> {
        let error = || DieAtError { given: text.to_owned(), steps: Step::ALL.map(Step::name).join(", ") };
        let (name, edge) = text.split_once(':').ok_or_else(error)?;
        let step = Step::ALL.into_iter().find(|step| step.name() == name).ok_or_else(error)?;
        let edge = match edge {
            "before" => Edge::Before,
            "after" => Edge::After,
            _ => return Err(error()),
        };
        Ok(Self { step, edge })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_has_a_name_and_nothing_else_is_taken_for_one() {
        for step in Step::ALL {
            assert_eq!(format!("{step}:before").parse(), Ok(DieAt { step, edge: Edge::Before }));
            assert_eq!(format!("{step}:after").parse(), Ok(DieAt { step, edge: Edge::After }));
        }
        for text in ["", "promote", "promote:", "promote:during", "lock:before"] {
            let error = text.parse::<DieAt>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("catch-up"), "{error}");
        }
    }
}
