//! What to do next about the problems of a shard, and why not the rest (pure).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    diagnose::{Code, Ground, Priority, Problem, Remedy, Repair},
    topo::TabletAlias,
};

/// A problem's identity from one diagnosis to the next.
pub type ProblemKey = (Code, Option<TabletAlias>);

/// Attempts after which a repair that brings nothing is replaced by the next stronger one.
const ATTEMPTS_OF_ONE_TACTIC: u32 = 3;

/// What stands in the way of actions on a shard.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Why nothing at all may be done: `--allow-recovery=false`, or recoveries are disabled for everybody.
    pub disabled: Option<String>,
    /// Why no emergency reparent may be made: a flag, or `SetVtorcEmergencyReparent` on the keyspace or the shard.
    pub emergency_disabled: Option<String>,
    /// The anti-flapping rule that holds the next automatic promotion back, and for how long yet.
    pub block: Option<(String, Duration)>,
    /// Maintenance of the whole shard.
    pub maintenance: Option<String>,
    /// Maintenance of single tablets.
    pub tablets_in_maintenance: BTreeMap<TabletAlias, String>,
    /// The workflow that switches traffic here: planned moves wait for it.
    pub traffic: Option<String>,
    /// What was tried before and did not help.
    pub tried: BTreeMap<ProblemKey, Tried>,
    /// Whether the witnesses may be asked again: an answer that is on its way is waited for.
    pub may_testify: bool,
}

/// Attempts at a problem that is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// How many.
    pub times: u32,
    /// How long to wait before the next one.
    pub again_in: Duration,
    /// How the last one ended.
    pub outcome: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask these tablets now.
    Reread(BTreeSet<TabletAlias>),
    /// Let the other tablets' hosts ask the primary's MySQL for its greeting.
    Testify,
    /// An emergency reparent.
    Emergency(Ground),
    /// A planned reparent.
    Takeover {
        /// To whom; elected when absent.
        to: Option<TabletAlias>,
        /// Whether an emergency reparent follows a failure.
        then_emergency: bool,
    },
    /// The first primary.
    ElectFirst,
    /// One repair of one tablet.
    Fix(TabletAlias, Repair),
}

/// Why a problem is not acted upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// There is nothing that a program should do.
    NoRecoveryAction,
    /// Recoveries are disabled.
    Disabled(String),
    /// Emergency reparents are disabled.
    EmergencyDisabled(String),
    /// An anti-flapping rule.
    AntiFlapping(String, Duration),
    /// A maintenance window.
    Maintenance(String),
    /// A workflow switches traffic.
    Traffic(String),
    /// It was tried and brought nothing; the next attempt has to wait.
    BackingOff(Tried),
    /// Something more urgent comes first.
    LessUrgent(Code),
    /// The answers of the witnesses are on their way.
    Witnesses,
}

impl Skip {
    /// The label of metrics; VTOrc's where it has the reason.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoRecoveryAction => "NoRecoveryAction",
            Self::Disabled(_) => "GlobalRecoveriesDisabled",
            Self::EmergencyDisabled(_) => "EmergencyReparentShardDisabled",
            Self::AntiFlapping(..) => "AntiFlapping",
            Self::Maintenance(_) => "Maintenance",
            Self::Traffic(_) => "TrafficSwitch",
            Self::BackingOff(_) => "BackingOff",
            Self::LessUrgent(_) => "LessUrgent",
            Self::Witnesses => "Witnesses",
        }
    }

    /// Whether something holds back an action that would be right.
    pub fn holds_back(&self) -> bool {
        !matches!(self, Self::NoRecoveryAction | Self::LessUrgent(_) | Self::Witnesses)
    }

    /// After how long it is worth deciding again; `None` = when something changes.
    pub fn again_in(&self) -> Option<Duration> {
        match self {
            Self::AntiFlapping(_, left) => Some(*left),
            Self::BackingOff(tried) => Some(tried.again_in),
            _ => None,
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reread(_) => write!(f, "reread"),
            Self::Testify => write!(f, "ask the witnesses"),
            Self::Emergency(_) => write!(f, "emergency reparent"),
            Self::Takeover { to: Some(to), .. } => write!(f, "planned reparent to {to}"),
            Self::Takeover { to: None, .. } => write!(f, "planned reparent"),
            Self::ElectFirst => write!(f, "elect the first primary"),
            Self::Fix(tablet, repair) => write!(f, "{repair} {tablet}"),
        }
    }
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRecoveryAction => write!(f, "it is reported; nothing is to be done by a program"),
            Self::Disabled(why) | Self::EmergencyDisabled(why) => write!(f, "{why}"),
            Self::AntiFlapping(why, left) => {
                write!(f, "{why}; for another {:.1} s, or until it is acknowledged", left.as_secs_f64())
            }
            Self::Maintenance(why) => write!(f, "maintenance: {why}"),
            Self::Traffic(what) => write!(f, "planned moves wait for {what}"),
            Self::BackingOff(tried) => {
                write!(
                    f,
                    "tried {} times, the last time: {}; again in {:.1} s",
                    tried.times,
                    tried.outcome,
                    tried.again_in.as_secs_f64()
                )
            }
            Self::LessUrgent(code) => write!(f, "{code} comes first"),
            Self::Witnesses => write!(f, "the witnesses are being asked"),
        }
    }
}

/// The next thing to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Next {
    /// Which problem is acted upon (its place in the list), and how; `None` = nothing for now.
    pub act: Option<(usize, Action)>,
    /// Why the others are not, in the order of the problems.
    pub skipped: Vec<(usize, Skip)>,
    /// After how long to decide again, though nothing may have changed.
    pub again_in: Option<Duration>,
}

impl Next {
    /// Whether it is a planned move, before which the workflows of the shard are to be looked at.
    pub fn is_planned_move(&self, problems: &[Problem]) -> bool {
        matches!(&self.act, Some((place, Action::Takeover { .. })) if can_wait(problems[*place].code))
    }
}

/// Picks the one action that is due now. The problems stand in the order of their urgency.
pub fn decide(problems: &[Problem], standing: &Standing) -> Next {
    let mut next = Next::default();
    // While the shard as a whole is in trouble, a repair of a single tablet can only do harm.
    let mut urgent: Option<Code> = None;
    for (place, problem) in problems.iter().enumerate() {
        let is_shard_wide = problem.code.priority() == Priority::Shard;
        let answer = match (urgent, &next.act) {
            (Some(first), _) if !is_shard_wide => Err(Skip::LessUrgent(first)),
            (_, Some((first, _))) => Err(Skip::LessUrgent(problems[*first].code)),
            (_, None) => action(problem, standing),
        };
        if is_shard_wide && problem.remedy != Remedy::Report {
            urgent.get_or_insert(problem.code);
        }
        match answer {
            Ok(action) => next.act = Some((place, action)),
            Err(skip) => {
                next.again_in = [next.again_in, skip.again_in()].into_iter().flatten().min();
                next.skipped.push((place, skip));
            }
        }
    }
    next
}

fn action(problem: &Problem, standing: &Standing) -> Result<Action, Skip> {
    let tried = standing.tried.get(&(problem.code, problem.tablet.clone()));
    let wanted = match (&problem.remedy, &problem.tablet) {
        (Remedy::Report, _) | (Remedy::Fix(_), None) => return Err(Skip::NoRecoveryAction),
        (Remedy::Reread(tablets), _) => Action::Reread(tablets.clone()),
        (Remedy::Testify, _) => Action::Testify,
        (Remedy::Emergency(ground), _) => Action::Emergency(*ground),
        (Remedy::Takeover { to, then_emergency }, _) => Action::Takeover { to: to.clone(), then_emergency: *then_emergency },
        (Remedy::ElectFirst, _) => Action::ElectFirst,
        (Remedy::Fix(repair), Some(tablet)) => tactic(tablet, *repair, tried.map_or(0, |tried| tried.times)),
    };
    permitted(problem, &wanted, standing)?;
    match tried {
        Some(tried) if !tried.again_in.is_zero() => Err(Skip::BackingOff(tried.clone())),
        _ => Ok(wanted),
    }
}

/// What was tried several times and brought nothing gives way to what goes further.
fn tactic(tablet: &TabletAlias, repair: Repair, times: u32) -> Action {
    match repair {
        Repair::StartReplication if times >= ATTEMPTS_OF_ONE_TACTIC => Action::Fix(tablet.clone(), Repair::Connect),
        // A primary that cannot be made writable is no primary.
        Repair::MakeWritable if times >= ATTEMPTS_OF_ONE_TACTIC => Action::Takeover { to: None, then_emergency: true },
        _ => Action::Fix(tablet.clone(), repair),
    }
}

/// Whether the move is a planned one, which waits for a workflow that switches traffic: the primary takes writes meanwhile.
fn can_wait(code: Code) -> bool {
    matches!(code, Code::WrongPrimary | Code::SlowPrimary)
}

fn permitted(problem: &Problem, wanted: &Action, standing: &Standing) -> Result<(), Skip> {
    // Looking is always allowed, also at what is under maintenance.
    match wanted {
        Action::Reread(_) => return Ok(()),
        Action::Testify if standing.may_testify => return Ok(()),
        Action::Testify => return Err(Skip::Witnesses),
        _ => {}
    }
    if let Some(why) = &standing.disabled {
        return Err(Skip::Disabled(why.clone()));
    }
    let of_tablet = problem.tablet.as_ref().and_then(|tablet| standing.tablets_in_maintenance.get(tablet));
    if let Some(why) = standing.maintenance.as_ref().or(of_tablet) {
        return Err(Skip::Maintenance(why.clone()));
    }
    let promotes = matches!(wanted, Action::Emergency(_) | Action::Takeover { .. });
    match (wanted, &standing.emergency_disabled, &standing.traffic) {
        (Action::Emergency(_), Some(why), _) => return Err(Skip::EmergencyDisabled(why.clone())),
        (Action::Takeover { .. }, _, Some(what)) if can_wait(problem.code) => return Err(Skip::Traffic(what.clone())),
        _ => {}
    }
    match &standing.block {
        Some((why, left)) if promotes => Err(Skip::AntiFlapping(why.clone(), *left)),
        _ => Ok(()),
    }
}
