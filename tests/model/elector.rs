//! An elector's run: an emergency reparent step by step, its undo, and what a successor makes of the journal.

use crate::{
    protocol::{Action, Ending, Flaw, Letter, Resume, Settings, Shard, Stage},
    world::{Answer, Call, Set, TABLETS_MAX, has},
};

/// What it does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// No run.
    Idle,
    Demote,
    /// For at most 400 ms; the demotion itself goes on.
    AwaitDemotion,
    Fence,
    /// Stops a replica's IO thread, sees that it is stopped, and reads its position.
    Stop(u8),
    Elect,
    Apply,
    /// Points an acker at the elect, before anything irrevocable: it must be able to commit.
    Establish(u8),
    /// Writes the intent, in one transaction with the check of the lock.
    IntendPromote,
    Promote,
    Follow(u8),
    Finish,
    UndoStop(u8),
    UndoDemote,
    UndoFinish,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Elector {
    pub step: Step,
    pub revision: u8,
    /// It leads somebody else's promotion to its end.
    pub resumes: bool,
    pub old: u8,
    pub elect: u8,
    /// The old primary answered its demotion, with this position.
    pub demoted: Option<Set>,
    /// The old primary's fence was confirmed.
    pub fenced: bool,
    /// Replicas seen stopped, and their positions.
    pub reached: Set,
    pub received: [Set; TABLETS_MAX],
    /// Ackers that follow the elect, and whether the old primary will: it is demoted and has nothing that the elect has not.
    pub established: Set,
    pub old_acks: bool,
}

impl Elector {
    pub fn idle() -> Self {
        Self {
            step: Step::Idle,
            revision: 0,
            resumes: false,
            old: 0,
            elect: 0,
            demoted: None,
            fenced: false,
            reached: 0,
            received: [0; TABLETS_MAX],
            established: 0,
            old_acks: false,
        }
    }

    /// The call of the present step, if it is one.
    fn call(&self) -> Option<(u8, Call)> {
        Some(match self.step {
            Step::Demote => (self.old, Call::Demote),
            Step::Fence => (self.old, Call::Fence),
            Step::Stop(at) => (at, Call::StopIo),
            Step::Apply => (self.elect, Call::Apply),
            Step::Establish(at) | Step::Follow(at) => (at, Call::Follow(self.elect)),
            Step::Promote => (self.elect, Call::Promote),
            Step::UndoStop(at) => (at, Call::RestartIo(self.old)),
            Step::UndoDemote => (self.old, Call::Undemote),
            Step::Idle | Step::AwaitDemotion | Step::Elect | Step::IntendPromote | Step::Finish | Step::UndoFinish => {
                return None;
            }
        })
    }

    /// The next tablet after `at`, all but one.
    fn after(at: Option<u8>, but: u8, settings: &Settings) -> Option<u8> {
        let from = at.map_or(0, |at| at + 1);
        (from..settings.tablets).find(|next| *next != but)
    }

    /// Forgets what only the proof needed.
    fn forgets(&mut self) {
        (self.demoted, self.fenced, self.received) = (None, false, [0; TABLETS_MAX]);
    }

    /// Forgets also whom it reached.
    fn forgets_all(&mut self) {
        *self = Self {
            step: self.step,
            revision: self.revision,
            resumes: self.resumes,
            old: self.old,
            elect: self.elect,
            ..Self::idle()
        };
    }

    /// The candidate, if the proofs hold.
    fn elects(&self, settings: &Settings) -> Option<u8> {
        let stopped = self.demoted.is_some() || self.fenced;
        let mut unreached = settings.everybody() & !self.reached;
        if stopped {
            unreached &= !(1 << self.old);
        }
        if settings.has(Flaw::UnreachedIgnored) {
            unreached = 0;
        }
        // Revoked: nobody whom we did not reach could be acknowledged. Without ackers, only the old primary's own answer says so.
        let could_commit = |at: u8| (unreached & !(1 << at)).count_ones() >= u32::from(settings.acks);
        if (0..settings.tablets).any(|at| has(unreached, at) && could_commit(at)) || (settings.acks == 0 && !stopped) {
            return None;
        }
        let candidates = (0..settings.tablets).filter(|at| has(self.reached, *at));
        let elect = if settings.has(Flaw::FirstIsElected) {
            candidates.min()
        } else {
            candidates.rev().max_by_key(|at| self.received[usize::from(*at)].count_ones())
        }?;
        let holds = self.received[usize::from(elect)];
        // Complete: the union over the reached ackers, if those that were not reached could not have acknowledged by themselves; else
        // what the old primary itself had when it was demoted.
        let union = self.received.iter().fold(0, |union, received| union | received);
        let missing = (unreached & !(1 << self.old)).count_ones() >= u32::from(settings.acks);
        let must_hold = match (missing, self.demoted) {
            (false, _) => union,
            (true, Some(position)) => union | position,
            (true, None) if settings.has(Flaw::UnionIsBelieved) => union,
            (true, None) => return None,
        };
        let must_hold = if settings.has(Flaw::UnionIsBelieved) { union } else { must_hold };
        if must_hold & !holds != 0 && settings.acks > 0 && !settings.has(Flaw::FirstIsElected) {
            return None;
        }
        // Established: enough others could acknowledge for it.
        let ackers = (self.reached & !(1 << elect)).count_ones() + u32::from(self.is_acker(holds));
        (ackers >= u32::from(settings.acks)).then_some(elect)
    }

    /// Whether the old primary will follow: it is demoted, and has nothing that the elect has not.
    fn is_acker(&self, elect_holds: Set) -> bool {
        self.demoted.is_some_and(|position| position & !elect_holds == 0)
    }
}

impl Shard {
    /// What an elector may do now.
    pub fn elector_actions(&self, by: u8, settings: &Settings, actions: &mut Vec<Action>) {
        let elector = &self.electors[usize::from(by)];
        if elector.step == Step::Idle {
            // Whoever comes first is called the first.
            let wanted = self.revision == 0 || settings.again || self.journal.stage != Stage::Finished;
            if self.lock.is_none() && self.revision < settings.revisions && wanted && (by == 0 || self.revision > 0) {
                actions.push(Action::TakesLock(by, Resume::Anew));
                if self.journal.stage == Stage::Stopping {
                    actions.push(Action::TakesLock(by, Resume::Undo));
                }
            }
            return;
        }
        actions.push(Action::Acts(by, Ending::Answered));
        let may_be_lost = match elector.call() {
            Some((to, _)) if to == 0 && settings.cut_off => true,
            Some((to, _)) => self.losses < settings.losses || !self.tablets[usize::from(to)].up(),
            None => elector.step == Step::AwaitDemotion || (elector.step == Step::IntendPromote && settings.intents_lost),
        };
        if may_be_lost {
            actions.push(Action::Acts(by, Ending::Lost));
        }
        if self.late_calls < settings.late && elector.call().is_some() {
            actions.push(Action::Acts(by, Ending::Late));
        }
    }

    /// Takes the free lock, reads the journal, and begins.
    pub fn takes_lock(&mut self, by: u8, resume: Resume, settings: &Settings) {
        self.revision += 1;
        self.lock = Some(by);
        let mut elector = Elector { revision: self.revision, old: self.primary, ..Elector::idle() };
        let back = self.journal.stage == Stage::Promoting && settings.has(Flaw::UndoAfterPromoting);
        match self.journal.stage {
            Stage::Stopping if resume == Resume::Undo => {
                elector.old = self.journal.old;
                self.undoes(&mut elector, settings);
            }
            Stage::Promoting if back => {
                elector.old = self.journal.old;
                self.undoes(&mut elector, settings);
            }
            Stage::Promoting if !settings.anew || self.primary == self.journal.elect => {
                (elector.old, elector.elect, elector.resumes) = (self.journal.old, self.journal.elect, true);
                elector.step = Step::Promote;
                if settings.has(Flaw::RestartAfterPromoting) {
                    for at in 0..settings.tablets {
                        if has(self.journal.named, at) && at != elector.old {
                            self.sends(Letter { to: at, call: Call::RestartIo(elector.old), revision: self.revision }, settings);
                        }
                    }
                }
            }
            _ => {
                self.journal.stage = Stage::Stopping;
                self.journal.old = elector.old;
                self.journal.named = settings.everybody() & !(1 << elector.old);
                elector.step = Step::Demote;
                if settings.has(Flaw::PositionsBeforeStop) || settings.has(Flaw::SilentStopIsBelieved) {
                    elector.received = self.tablets.map(|tablet| tablet.received);
                }
            }
        }
        self.electors[usize::from(by)] = elector;
    }

    fn holds_lock(&self, by: u8) -> bool {
        self.lock == Some(by)
    }

    fn ends_run(&mut self, by: u8) {
        if self.holds_lock(by) {
            self.lock = None;
        }
        self.electors[usize::from(by)] = Elector::idle();
    }

    /// One step of a run.
    pub fn acts(&mut self, by: u8, ending: Ending, settings: &Settings) {
        let mut elector = self.electors[usize::from(by)];
        let Some((to, call)) = elector.call() else {
            return self.decides(by, elector, ending, settings);
        };
        // Without pauses, check and call are one.
        if !settings.pauses && !self.holds_lock(by) {
            return self.ends_run(by);
        }
        let letter = Letter { to, call, revision: elector.revision };
        let answer = match ending {
            Ending::Answered => self.sends(letter, settings),
            Ending::Lost => {
                let free = (to == 0 && settings.cut_off) || !self.tablets[usize::from(to)].up();
                self.losses += u8::from(!free);
                Answer::Failed
            }
            Ending::Late => {
                self.late = Some(letter);
                self.late_calls += 1;
                Answer::Failed
            }
        };
        if answer == Answer::Overtaken {
            return self.ends_run(by);
        }
        match self.hears(by, &mut elector, answer == Answer::Done, settings) {
            true => self.electors[usize::from(by)] = elector,
            false => self.ends_run(by),
        }
    }

    /// What follows from a call's answer; `false` when the run ends here, its journal open.
    fn hears(&mut self, by: u8, elector: &mut Elector, done: bool, settings: &Settings) -> bool {
        match elector.step {
            // An agent answers at once or not in time.
            Step::Demote if settings.agents && !done => elector.step = Step::Fence,
            Step::Demote => elector.step = Step::AwaitDemotion,
            Step::Fence => {
                elector.fenced = done;
                elector.step = Elector::after(None, elector.old, settings).map_or(Step::Elect, Step::Stop);
            }
            Step::Stop(at) => {
                if done {
                    elector.reached |= 1 << at;
                    if !settings.has(Flaw::PositionsBeforeStop) {
                        elector.received[usize::from(at)] = self.tablets[usize::from(at)].received;
                    }
                } else if settings.has(Flaw::SilentStopIsBelieved) {
                    elector.reached |= 1 << at;
                }
                elector.step = Elector::after(Some(at), elector.old, settings).map_or(Step::Elect, Step::Stop);
            }
            Step::Apply if done => elector.step = elector.establish_from(None, settings),
            Step::Apply => self.undoes(elector, settings),
            Step::Establish(at) => {
                elector.established |= u8::from(done) << at;
                elector.step = elector.establish_from(Some(at), settings);
                if elector.step == Step::IntendPromote && !elector.is_established(settings) {
                    self.undoes(elector, settings);
                }
            }
            Step::Promote if done => {
                elector.forgets_all();
                elector.step = Elector::after(None, elector.elect, settings).map_or(Step::Finish, Step::Follow);
            }
            // Neither success nor failure: the journal stands, and whoever comes next goes forward.
            Step::Promote => return false,
            Step::Follow(at) => {
                if (done || settings.has(Flaw::UnreachedForgotten)) && self.holds_lock(by) {
                    self.journal.named &= !(1 << at);
                }
                elector.step = Elector::after(Some(at), elector.elect, settings).map_or(Step::Finish, Step::Follow);
            }
            Step::UndoStop(at) => {
                if done && self.holds_lock(by) {
                    self.journal.named &= !(1 << at);
                }
                elector.step = self.undo_from(Some(at), elector, settings);
            }
            Step::UndoDemote if done => elector.step = Step::UndoFinish,
            // The journal stands: the next one tries again.
            Step::UndoDemote => return false,
            _ => {}
        }
        true
    }

    /// The steps that are no calls: decisions, and the transactions in etcd that check the lock.
    fn decides(&mut self, by: u8, mut elector: Elector, ending: Ending, settings: &Settings) {
        match elector.step {
            Step::AwaitDemotion => {
                let old = &mut self.tablets[usize::from(elector.old)];
                if old.demoted_for == elector.revision && ending == Ending::Answered {
                    elector.demoted = Some(old.executed);
                } else if settings.has(Flaw::DemotionIsBelieved) {
                    elector.demoted = Some(0);
                } else if settings.has(Flaw::DemotionIsCancelled) {
                    old.demotion_is_cancelled();
                }
                let stop = Elector::after(None, elector.old, settings).map_or(Step::Elect, Step::Stop);
                elector.step = if elector.demoted.is_some() { stop } else { Step::Fence };
            }
            Step::Elect => match elector.elects(settings) {
                Some(elect) => {
                    let acker = elector.is_acker(elector.received[usize::from(elect)]);
                    elector.forgets();
                    (elector.elect, elector.old_acks) = (elect, acker);
                    elector.step = Step::Apply;
                    if settings.has(Flaw::NotApplied) {
                        elector.step = elector.establish_from(None, settings);
                    }
                }
                None => self.undoes(&mut elector, settings),
            },
            Step::IntendPromote if self.holds_lock(by) || settings.has(Flaw::IntentUnguarded) => {
                self.journal.stage = Stage::Promoting;
                self.journal.elect = elector.elect;
                self.journal.named = settings.everybody() & !(1 << elector.elect);
                match ending {
                    Ending::Answered => elector.step = Step::Promote,
                    _ if settings.has(Flaw::LostIntentIsBelieved) => self.undoes(&mut elector, settings),
                    // Written or not: whoever comes next reads it.
                    _ => return self.ends_run(by),
                }
                elector.forgets_all();
            }
            Step::Finish | Step::UndoFinish if self.holds_lock(by) => {
                // An undo that did not reach everybody stays open.
                if elector.step == Step::Finish || self.journal.named == 0 {
                    (self.journal.stage, self.journal.old, self.journal.elect) = (Stage::Finished, 0, 0);
                }
                return self.ends_run(by);
            }
            _ => return self.ends_run(by),
        }
        self.electors[usize::from(by)] = elector;
    }

    fn undoes(&self, elector: &mut Elector, settings: &Settings) {
        elector.elect = 0;
        elector.forgets_all();
        elector.step = self.undo_from(None, elector, settings);
    }

    /// The next replica whose IO thread the run may have stopped, then the old primary.
    fn undo_from(&self, at: Option<u8>, elector: &Elector, settings: &Settings) -> Step {
        let from = at.map_or(0, |at| at + 1);
        let next = (from..settings.tablets).find(|next| has(self.journal.named, *next) && *next != elector.old);
        next.map_or(Step::UndoDemote, Step::UndoStop)
    }
}

impl Elector {
    /// The next reached tablet to be pointed at the elect.
    fn establish_from(&self, at: Option<u8>, settings: &Settings) -> Step {
        let from = at.map_or(0, |at| at + 1);
        let next = (from..settings.tablets).find(|next| has(self.reached, *next) && *next != self.elect);
        next.map_or(Step::IntendPromote, Step::Establish)
    }

    /// Whether enough ackers follow the elect. The old primary counts, although it is pointed there only with the promotion.
    fn is_established(&self, settings: &Settings) -> bool {
        self.established.count_ones() + u32::from(self.old_acks) >= u32::from(settings.acks)
    }
}
