//! What is wrong with a shard, from what was seen of it (pure).
//!
//! One file a family of problems. Each looks at the same [`Facts`] and says what it finds; [`diagnose`] puts that in order, and takes
//! the remedies away where nothing may be decided.

mod code;
mod dead;
pub mod errant;
mod facts;
mod primary;
mod problem;
mod records;
mod replica;
mod semi_sync;
mod structure;
mod testimony;
#[cfg(test)]
mod tests;
pub mod traffic;

pub use code::Code;
pub use problem::{Ground, Priority, Problem, Remedy, Repair, Rules};

use crate::shard::ShardView;
use facts::Facts;

/// Everything that is wrong with a shard, the most urgent first.
///
/// A remedy is safe by itself: whoever acts may take the first one, lock, look again and take the first one then.
pub fn diagnose(view: &ShardView, rules: &Rules) -> Vec<Problem> {
    if view.keyspace.is_snapshot {
        return Vec::new();
    }
    let facts = Facts::of(view, rules);
    let mut problems = Vec::new();
    for family in
        [dead::problems, primary::problems, records::problems, replica::problems, semi_sync::problems, structure::problems]
    {
        problems.extend(family(&facts));
    }
    problems.sort_by(|a, b| order(a).cmp(&order(b)));
    restrain(view, &mut problems);
    problems
}

/// Whether the replicas of a silent primary may be made to testify by an action: their IO threads stopped and started. A primary that is
/// merely full, or answers with errors, would lose by it what still works.
pub fn may_bounce(view: &ShardView, rules: &Rules) -> bool {
    let facts = Facts::of(view, rules);
    view.looked && testimony::Silence::of(&facts).is_some_and(|silence| silence.allows_action(&facts))
}

fn order(problem: &Problem) -> (Priority, Code, &Option<crate::topo::TabletAlias>) {
    (problem.code.priority(), problem.code, &problem.tablet)
}

/// Without a complete first look only absences are reported; without current records nothing is done.
fn restrain(view: &ShardView, problems: &mut Vec<Problem>) {
    if !view.looked {
        problems.retain(|problem| matches!(problem.code, Code::InvalidPrimary | Code::InvalidReplica | Code::TopologyUnreadable));
    }
    let reason = match (&view.topology_unreadable, &view.keyspace.policy, view.keyspace.policy_unset) {
        _ if !view.looked => "the first look at the shard is not complete",
        (Some(_), ..) => "the topology cannot be read",
        (None, Err(_), _) => "the keyspace's durability policy does not exist",
        (None, Ok(_), true) => "the keyspace names no durability policy",
        (None, Ok(_), false) => return,
    };
    for problem in problems.iter_mut().filter(|problem| problem.remedy != Remedy::Report) {
        problem.remedy = Remedy::Report;
        problem.why = format!("{}; nothing is done: {reason}", problem.why);
    }
}
