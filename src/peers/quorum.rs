//! Whether enough electors see what one of them sees. Pure.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{Observation, Probe};
use crate::{shard::FailureClass, topo::TabletAlias};

/// Evidence of this age is no evidence any more (safety rules, section 11).
pub const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(2);
/// So many of those who agree must run in other cells than the asker's.
const ELSEWHERE_MIN: usize = 2;

/// What an elector wants to have confirmed before it acts against a primary that has live evidence for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody reaches the primary, though its replicas are content.
    PrimaryUnseen,
    /// Nobody reaches the primary's tablet manager, though its MySQL server works.
    ManagerDead,
}

impl Claim {
    /// A word for it, of a bounded set.
    pub fn name(self) -> &'static str {
        match self {
            Self::PrimaryUnseen => "primary_unseen",
            Self::ManagerDead => "manager_dead",
        }
    }

    /// What an observation says to it.
    fn judge(self, seen: &Observation) -> Stance {
        let Observation { manager, mysql, .. } = seen;
        if *manager == Probe::Answers {
            return Stance::Contradicts("its tablet manager answers".to_owned());
        }
        match self {
            Self::PrimaryUnseen => match mysql {
                Probe::Answers if seen.writable == Some(true) => {
                    Stance::Contradicts("its MySQL answers, and is writable".to_owned())
                }
                Probe::Answers => Stance::Contradicts("its MySQL answers".to_owned()),
                // It speaks, if only to refuse.
                Probe::Fails { class: FailureClass::TooManyConnections | FailureClass::Answered, words } => {
                    Stance::Contradicts(format!("its MySQL answers: {words}"))
                }
                Probe::Fails { .. } => manager_stance(manager, |words| format!("tablet manager: {words}; MySQL: {mysql}")),
                Probe::CannotTell(words) => Stance::CannotTell(format!("MySQL: {words}")),
            },
            Self::ManagerDead => manager_stance(manager, |words| format!("tablet manager: {words}; MySQL {mysql}")),
        }
    }
}

fn manager_stance(manager: &Probe, words: impl FnOnce(&str) -> String) -> Stance {
    match manager {
        Probe::Answers => Stance::Contradicts("its tablet manager answers".to_owned()),
        // Something answered there, if no tablet manager.
        Probe::Fails { class: FailureClass::Answered | FailureClass::TooManyConnections, words } => {
            Stance::CannotTell(format!("tablet manager: {words}"))
        }
        Probe::Fails { words: failure, .. } => Stance::Agrees(words(failure)),
        Probe::CannotTell(words) => Stance::CannotTell(format!("tablet manager: {words}")),
    }
}

/// What one voter's evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stance {
    Agrees(String),
    Contradicts(String),
    CannotTell(String),
}

/// What a voter saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// What.
    pub seen: Observation,
    /// How long ago it was asked for: nothing in it is older.
    pub age: Duration,
}

/// Why a claim is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Who the voters are could not be read.
    VotersUnknown(String),
    /// The asker's own evidence does not bear the claim out.
    OwnEvidence,
    /// Somebody sees the contrary.
    Contradicted,
    /// So many more would have to agree for more than half of all voters.
    NoMajority {
        /// How many.
        missing: usize,
    },
    /// So many more of other cells than the asker's would have to agree.
    TooFewElsewhere {
        /// How many.
        missing: usize,
    },
}

/// The answer to a claim, with everybody's part in it. It prints as one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was claimed.
    pub claim: Claim,
    /// Of which tablet.
    pub tablet: TabletAlias,
    /// How many voters there are: electors that were seen in the last day, alive or not.
    pub voters: usize,
    /// Who agrees, and what each saw.
    pub agreed: BTreeMap<String, String>,
    /// Who sees the contrary, and what.
    pub contradicted: BTreeMap<String, String>,
    /// Who did not answer, or cannot tell, and why.
    pub silent: BTreeMap<String, String>,
    /// Why it is not confirmed; `None` = it is.
    pub refused: Option<Refused>,
}

impl Verdict {
    /// Whether the claim is confirmed.
    pub fn holds(&self) -> bool {
        self.refused.is_none()
    }

    /// A word for the outcome, of a bounded set.
    pub fn outcome(&self) -> &'static str {
        match &self.refused {
            None => "agreed",
            Some(Refused::VotersUnknown(_)) => "voters_unknown",
            Some(Refused::OwnEvidence) => "own_evidence",
            Some(Refused::Contradicted) => "contradicted",
            Some(Refused::NoMajority { .. }) => "no_majority",
            Some(Refused::TooFewElsewhere { .. }) => "too_few_elsewhere",
        }
    }

    pub(super) fn voters_unknown(claim: Claim, tablet: &TabletAlias, reason: String) -> Self {
        let (agreed, contradicted, silent) = Default::default();
        let refused = Some(Refused::VotersUnknown(reason));
        Self { claim, tablet: tablet.clone(), voters: 0, agreed, contradicted, silent, refused }
    }
}

/// Judges a claim of `asker` (its id and cell) by what each voter answered, itself included. `voters` names each voter's cell; the
/// asker is a voter whether or not it stands there, and answers of others than voters count for nothing.
///
/// The rule (safety rules, section 11): more than half of the voters, alive or not, among them at least two in cells other than the
/// asker's, on evidence under 2 s old, and none to the contrary. So fewer than three voters never confirm anything.
pub fn tally(
    claim: Claim,
    tablet: &TabletAlias,
    asker: (&str, &str),
    voters: &BTreeMap<String, String>,
    answers: &BTreeMap<String, Result<Evidence, String>>,
) -> Verdict {
    let (me, my_cell) = asker;
    let mut voters = voters.clone();
    voters.insert(me.to_owned(), my_cell.to_owned());
    let (mut agreed, mut contradicted, mut silent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for voter in voters.keys() {
        let stance = match answers.get(voter) {
            None => Stance::CannotTell("was not asked".to_owned()),
            Some(Err(reason)) => Stance::CannotTell(reason.clone()),
            Some(Ok(evidence)) => match claim.judge(&evidence.seen) {
                // A sign of life counts whatever its age: it is a reason to look again.
                contrary @ Stance::Contradicts(_) => contrary,
                _ if evidence.age >= EVIDENCE_AGE_MAX => Stance::CannotTell(format!("its evidence is {:?} old", evidence.age)),
                stance => stance,
            },
        };
        let (of, words) = match stance {
            Stance::Agrees(words) => (&mut agreed, words),
            Stance::Contradicts(words) => (&mut contradicted, words),
            Stance::CannotTell(words) => (&mut silent, words),
        };
        of.insert(voter.clone(), words);
    }
    // An elector that was not told its cell is in no other one.
    let is_elsewhere = |id: &str| voters.get(id).is_some_and(|cell| !cell.is_empty() && !my_cell.is_empty() && cell != my_cell);
    let elsewhere = agreed.keys().filter(|id| is_elsewhere(id)).count();
    let needed = voters.len() / 2 + 1;
    let refused = if !contradicted.is_empty() {
        Some(Refused::Contradicted)
    } else if !agreed.contains_key(me) {
        Some(Refused::OwnEvidence)
    } else if agreed.len() < needed {
        Some(Refused::NoMajority { missing: needed - agreed.len() })
    } else if elsewhere < ELSEWHERE_MIN {
        Some(Refused::TooFewElsewhere { missing: ELSEWHERE_MIN - elsewhere })
    } else {
        None
    };
    Verdict { claim, tablet: tablet.clone(), voters: voters.len(), agreed, contradicted, silent, refused }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.claim {
            Claim::PrimaryUnseen => "cannot be reached",
            Claim::ManagerDead => "has lost its tablet manager",
        };
        let Self { tablet, voters, agreed, .. } = self;
        let agreeing = agreed.len();
        match &self.refused {
            None => write!(f, "{agreeing} of {voters} electors agree that {tablet} {what}")?,
            Some(Refused::VotersUnknown(reason)) => {
                return write!(
                    f,
                    "nobody was asked whether {tablet} {what}: the electors of the last day could not be read: {reason}"
                );
            }
            Some(Refused::OwnEvidence) => write!(f, "not confirmed that {tablet} {what}: this elector itself cannot tell")?,
            Some(Refused::Contradicted) => write!(f, "not confirmed that {tablet} {what}: there is evidence to the contrary")?,
            Some(Refused::NoMajority { missing }) => write!(
                f,
                "not confirmed that {tablet} {what}: {agreeing} of {voters} electors agree, {missing} more would have to"
            )?,
            Some(Refused::TooFewElsewhere { missing }) => write!(
                f,
                "not confirmed that {tablet} {what}: {agreeing} of {voters} electors agree, but {missing} more in other cells than this one's would have to"
            )?,
        }
        for (how, who) in [("contrary", &self.contradicted), ("agree", agreed), ("no word from", &self.silent)] {
            if !who.is_empty() {
                let list: Vec<String> = who.iter().map(|(id, words)| format!("{id} ({words})")).collect();
                write!(f, "; {how}: {}", list.join(", "))?;
            }
        }
        Ok(())
    }
}
