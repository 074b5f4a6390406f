//! The shard as a whole: lock, journal, what can happen, and what must hold.

use stateright::{Model, Property};

use crate::{
    elector::{Elector, Step},
    world::{Answer, Call, Demotion, Io, Mysqld, Set, TABLETS_MAX, Tablet, arrives, has},
};

/// A way of doing it wrong. Each is known to be unsafe, and the checker must find out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// An IO thread counts as stopped because the stop was answered with OK.
    StopIsBelieved,
    /// A replica counts as stopped because it was there before and the stop was sent.
    SilentStopIsBelieved,
    /// Positions are those of the survey, read before the threads were stopped.
    PositionsBeforeStop,
    /// A demotion counts as done because it was sent.
    DemotionIsBelieved,
    /// A demotion is cancelled when nobody wants to wait for it any more.
    DemotionIsCancelled,
    /// Ackers that were not reached are left out of the count.
    UnreachedIgnored,
    /// What the reached ackers hold is taken for all there is, because the old primary was demoted.
    UnionIsBelieved,
    /// The elect is promoted without having applied what it received.
    NotApplied,
    /// The first tablet that answers is elected, not the one that holds most.
    FirstIsElected,
    /// Whoever resumes goes back, also after the point of no return.
    UndoAfterPromoting,
    /// Whoever resumes after the point of no return starts the IO threads that the dead run had stopped.
    RestartAfterPromoting,
    /// An intent whose writing was not answered counts as not written, and the run is undone.
    LostIntentIsBelieved,
    /// A replica's unapplied relay log is thrown away when it is pointed elsewhere.
    RepointsUnapplied,
    /// Those that could not be told to follow are forgotten.
    UnreachedForgotten,
    /// An agent whose mysqld was restarted follows the records without looking for an unfinished run.
    SettlesDuringRun,
    /// A restarted mysqld comes back writable.
    ReturnsWritable,
    /// A vttablet that is restarted starts replication at once, without the lock.
    VttabletRestarts,
    /// A call that was given up arrives after a later one of the same run to the same tablet.
    CallsOvertake,
    /// An undo only starts the IO threads, wherever they were pointed meanwhile.
    UndoOnlyStarts,
    /// An undo opens the old primary while its fence is still on its way.
    UndoBeforeFence,
    /// Nobody knows of the dead run's fence: the undo opens the old primary and leaves offline_mode.
    UndoForgetsFence,
    /// The elector does not check the lock with the intent to promote.
    IntentUnguarded,
}

/// What is there, and what may happen to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The old primary is tablet 0.
    pub tablets: u8,
    /// Acknowledgements that a commit needs; 0 is the policy `none`.
    pub acks: u8,
    /// Agents compare lock revisions; vttablets do not.
    pub agents: bool,
    /// How many transactions clients write.
    pub writes: u8,
    /// How often the lock is taken.
    pub revisions: u8,
    /// Another reparent may begin when one is finished.
    pub again: bool,
    /// A successor that finds the elect not promoted begins anew, with any elect; else it goes on to that elect.
    pub anew: bool,
    /// An agent promotes itself only while its caller's lock lives: it records the promotion in one transaction with that check.
    pub guarded: bool,
    /// An elector that has lost its lock sends what it has checked already, up to its next intent.
    pub pauses: bool,
    /// How many calls that were given up may arrive at any later time.
    pub late: u8,
    /// Calls to the old primary get lost.
    pub cut_off: bool,
    /// How many calls to replicas get lost.
    pub losses: u8,
    /// The old primary freezes and thaws.
    pub freezes: bool,
    /// These tablets die once and return.
    pub mortal: Set,
    /// The old primary is dead for good, with one acknowledged transaction that these replicas have received.
    pub dead: Option<Set>,
    /// Clients are connected to mysqld, not to vttablet's query service.
    pub direct_clients: bool,
    /// An IO thread loses its connection although both sides live.
    pub glitches: bool,
    /// The answer to the intent to promote may get lost.
    pub intents_lost: bool,
    pub flaw: Option<Flaw>,
    pub expects: Expects,
}

/// What the search is to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expects {
    Safe,
    Harm,
}

impl Settings {
    pub fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    pub fn everybody(&self) -> Set {
        (1 << self.tablets) - 1
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// No run is open. Whoever is still named could not be told to follow, and waits for a later run.
    Finished,
    /// IO threads of those named may be stopped, the old primary may be demoted or fenced. May be undone.
    Stopping,
    /// The point of no return: only forward.
    Promoting,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Journal {
    pub stage: Stage,
    pub old: u8,
    pub elect: u8,
    /// Who may not follow the primary because of a run: IO threads that were stopped, and the old primary after a promotion.
    pub named: Set,
}

/// A call that was given up and is still on its way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Letter {
    pub to: u8,
    pub call: Call,
    pub revision: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shard {
    pub tablets: [Tablet; TABLETS_MAX],
    pub electors: [Elector; 2],
    /// Who holds the lock, and how often it was taken.
    pub lock: Option<u8>,
    pub revision: u8,
    pub journal: Journal,
    /// The primary by the records: the newest term.
    pub primary: u8,
    pub late: Option<Letter>,
    pub written: u8,
    pub acknowledged: Set,
    /// Who was fenced, or whose fence waits for a frozen mysqld, and acknowledged all the same.
    pub fenced_acknowledged: Set,
    pub losses: u8,
    pub late_calls: u8,
    pub died: Set,
    pub froze: bool,
}

/// How a step of an elector ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ending {
    /// The call arrives, and so does its answer.
    Answered,
    /// Nothing arrives; the elector gives up waiting.
    Lost,
    /// The elector gives up waiting; the call may arrive later.
    Late,
}

/// What a new holder of the lock makes of a run that stopped before the point of no return.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resume {
    Undo,
    Anew,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A client writes on the first; these replicas of its receive it, and all before it.
    Writes(u8, Set),
    Disconnects(u8),
    Connects(u8),
    Dies(u8),
    Returns(u8),
    Freezes(u8),
    Thaws(u8),
    /// An agent whose mysqld was restarted makes it what the records say, under the lock.
    Settles(u8),
    /// vttablet's process is restarted and starts replication.
    VttabletRestarts(u8),
    GoesOnWithDemotion(u8),
    TakesLock(u8, Resume),
    LeaseExpires,
    Acts(u8, Ending),
    ArrivesLate,
}

impl Shard {
    /// Whether a new write on it would be acknowledged to its client, perhaps after it thaws.
    pub fn can_acknowledge(&self, at: u8, settings: &Settings) -> bool {
        let tablet = &self.tablets[usize::from(at)];
        let ackers = self.tablets[..usize::from(settings.tablets)].iter().filter(|other| other.follows(at)).count();
        let needed = if tablet.semi_sync { settings.acks } else { 0 };
        tablet.mysqld != Mysqld::Dead && tablet.open() && ackers >= usize::from(needed)
    }

    /// No run is open and nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.journal.stage == Stage::Finished
            && self.late.is_none()
            && self.electors.iter().all(|elector| elector.step == Step::Idle)
            && self.tablets.iter().all(|tablet| tablet.demotion == Demotion::None && !tablet.fence_waits)
    }

    fn writes(&mut self, at: u8, receivers: Set) {
        let transaction = 1 << self.written;
        self.written += 1;
        let tablet = &mut self.tablets[usize::from(at)];
        tablet.received |= transaction;
        tablet.executed |= transaction;
        tablet.waiting |= transaction;
        let executed = tablet.executed;
        for receiver in (0..TABLETS_MAX as u8).filter(|other| has(receivers, *other)) {
            self.tablets[usize::from(receiver)].received |= executed;
        }
    }

    /// The replicas that would receive a write there now.
    fn followers(&self, at: u8) -> Set {
        let follows = (0..TABLETS_MAX as u8).filter(|other| self.tablets[usize::from(*other)].follows(at));
        follows.fold(0, |set, other| set | 1 << other)
    }

    /// Clients are told as early as they can be: whatever is told later could have been told now, and now is the harder case.
    fn acknowledges(&mut self, at: u8, settings: &Settings) {
        let tablet = &self.tablets[usize::from(at)];
        if !tablet.up() || tablet.waiting == 0 || tablet.offline {
            return;
        }
        let needed = if tablet.semi_sync { settings.acks } else { 0 };
        let mut told = 0;
        for transaction in 0..settings.writes {
            let others = (0..settings.tablets).filter(|other| *other != at);
            let holders = others.filter(|other| has(self.tablets[usize::from(*other)].received, transaction)).count();
            if has(tablet.waiting, transaction) && holders >= usize::from(needed) {
                told |= 1 << transaction;
            }
        }
        if told != 0 && tablet.fence_waits {
            self.fenced_acknowledged |= 1 << at;
        }
        self.tablets[usize::from(at)].waiting &= !told;
        self.acknowledged |= told;
    }

    fn connects(&mut self, at: u8) -> Option<()> {
        let source = self.tablets[usize::from(self.tablets[usize::from(at)].source)];
        let tablet = &mut self.tablets[usize::from(at)];
        (tablet.up() && tablet.io == Io::Connecting && source.up() && !source.offline).then_some(())?;
        tablet.io = Io::Running;
        tablet.received |= source.executed;
        Some(())
    }

    fn disconnects(&mut self, at: u8) -> Option<()> {
        let tablet = &mut self.tablets[usize::from(at)];
        (tablet.io == Io::Running).then_some(())?;
        tablet.io = Io::Connecting;
        Some(())
    }

    fn dies(&mut self, at: u8) {
        let tablet = &mut self.tablets[usize::from(at)];
        tablet.dies();
        self.died |= 1 << at;
        // The kernel closes its connections.
        for other in &mut self.tablets {
            if other.follows(at) {
                other.io = Io::Connecting;
            }
        }
    }

    fn settles(&mut self, at: u8, settings: &Settings) -> Option<()> {
        let open = self.journal.stage == Stage::Promoting && !settings.has(Flaw::SettlesDuringRun);
        let tablet = &mut self.tablets[usize::from(at)];
        (tablet.unsettled && tablet.up() && self.lock.is_none() && !open).then_some(())?;
        if self.primary == at {
            tablet.writable = true;
            tablet.semi_sync = settings.acks > 0;
            tablet.unsettled = false;
            return Some(());
        }
        let revision = tablet.seen;
        (arrives(&mut self.tablets, at, Call::Follow(self.primary), revision, settings) == Answer::Done).then_some(())
    }

    fn vttablet_restarts(&mut self, at: u8) -> Option<()> {
        let primary = self.primary;
        let tablet = &mut self.tablets[usize::from(at)];
        (tablet.io == Io::Stopped && tablet.up() && tablet.source == primary).then_some(())?;
        tablet.io = Io::Connecting;
        Some(())
    }

    /// Its holder was paused, cut off or killed. What pauses may go on later; who dies with the lease does not.
    fn lease_expires(&mut self, settings: &Settings) -> Option<()> {
        let holder = self.lock.take()?;
        if !settings.pauses {
            self.electors[usize::from(holder)] = Elector::idle();
        }
        Some(())
    }

    fn arrives_late(&mut self, settings: &Settings) -> Option<()> {
        let letter = self.late.take()?;
        self.sends(letter, settings);
        Some(())
    }

    /// A call arrives; a promotion is written into the records. Calls of one run to one tablet arrive in their order: what is still on
    /// its way comes before this one or never.
    pub fn sends(&mut self, letter: Letter, settings: &Settings) -> Answer {
        let overtaken = |late: Letter| (late.to, late.revision) == (letter.to, letter.revision);
        if self.late.is_some_and(overtaken) && !settings.has(Flaw::CallsOvertake) {
            self.late = None;
        }
        let lives = self.lock.is_some() && self.revision == letter.revision;
        if letter.call == Call::Promote && settings.agents && settings.guarded && !lives {
            return Answer::Overtaken;
        }
        let answer = arrives(&mut self.tablets, letter.to, letter.call, letter.revision, settings);
        if letter.call == Call::Promote && answer == Answer::Done {
            self.primary = letter.to;
        }
        answer
    }
}

impl Model for Settings {
    type State = Shard;
    type Action = Action;

    fn init_states(&self) -> Vec<Shard> {
        let mut tablets = [Tablet::replica(); TABLETS_MAX];
        tablets[0] = Tablet { semi_sync: self.acks > 0, ..Tablet::primary() };
        let mut shard = Shard {
            tablets,
            electors: [Elector::idle(); 2],
            lock: None,
            revision: 0,
            journal: Journal { stage: Stage::Finished, old: 0, elect: 0, named: 0 },
            primary: 0,
            late: None,
            written: 0,
            acknowledged: 0,
            fenced_acknowledged: 0,
            losses: 0,
            late_calls: 0,
            died: 0,
            froze: false,
        };
        if let Some(holders) = self.dead {
            shard.writes(0, holders);
            shard.acknowledges(0, self);
            shard.dies(0);
        }
        vec![shard]
    }

    fn actions(&self, shard: &Shard, actions: &mut Vec<Action>) {
        for at in 0..self.tablets {
            let tablet = &shard.tablets[usize::from(at)];
            if shard.written < self.writes && tablet.up() && tablet.open() {
                let followers = shard.followers(at);
                let receivers = (0..=followers).filter(|some| some & !followers == 0);
                actions.extend(receivers.map(|some| Action::Writes(at, some)));
            }
            match tablet.io {
                Io::Running if self.glitches => actions.push(Action::Disconnects(at)),
                Io::Connecting => actions.push(Action::Connects(at)),
                Io::Stopped if self.has(Flaw::VttabletRestarts) => actions.push(Action::VttabletRestarts(at)),
                Io::Stopped | Io::Running | Io::Absent => {}
            }
            match tablet.mysqld {
                Mysqld::Up if has(self.mortal & !shard.died, at) => actions.push(Action::Dies(at)),
                Mysqld::Dead if has(self.mortal, at) => actions.push(Action::Returns(at)),
                Mysqld::Frozen => actions.push(Action::Thaws(at)),
                Mysqld::Up | Mysqld::Dead => {}
            }
            if self.freezes && at == 0 && !shard.froze && tablet.up() {
                actions.push(Action::Freezes(at));
            }
            if tablet.unsettled && self.agents {
                actions.push(Action::Settles(at));
            }
            if tablet.up() && (tablet.demotion != Demotion::None || tablet.fence_waits) {
                actions.push(Action::GoesOnWithDemotion(at));
            }
        }
        if shard.lock.is_some() {
            actions.push(Action::LeaseExpires);
        }
        if shard.late.is_some() {
            actions.push(Action::ArrivesLate);
        }
        for elector in 0..2 {
            shard.elector_actions(elector, self, actions);
        }
    }

    fn next_state(&self, last: &Shard, action: Action) -> Option<Shard> {
        let mut shard = *last;
        match action {
            Action::Writes(at, receivers) => shard.writes(at, receivers),
            Action::Disconnects(at) => shard.disconnects(at)?,
            Action::Connects(at) => shard.connects(at)?,
            Action::Dies(at) => shard.dies(at),
            Action::Returns(at) => shard.tablets[usize::from(at)].returns(self),
            Action::Freezes(at) => {
                shard.tablets[usize::from(at)].mysqld = Mysqld::Frozen;
                shard.froze = true;
            }
            Action::Thaws(at) => shard.tablets[usize::from(at)].thaws(self),
            Action::Settles(at) => shard.settles(at, self)?,
            Action::VttabletRestarts(at) => shard.vttablet_restarts(at)?,
            Action::GoesOnWithDemotion(at) => shard.tablets[usize::from(at)].carries_out_what_waited(self),
            Action::TakesLock(elector, resume) => shard.takes_lock(elector, resume, self),
            Action::LeaseExpires => shard.lease_expires(self)?,
            Action::Acts(elector, ending) => shard.acts(elector, ending, self),
            Action::ArrivesLate => shard.arrives_late(self)?,
        }
        for at in 0..self.tablets {
            shard.acknowledges(at, self);
        }
        (shard != *last).then_some(shard)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(LOST, |settings: &Settings, shard: &Shard| {
                settings.acks == 0 || shard.acknowledged & !shard.tablets[usize::from(shard.primary)].executed == 0
            }),
            Property::always(TWO, |settings: &Settings, shard: &Shard| {
                (0..settings.tablets).filter(|at| shard.can_acknowledge(*at, settings)).count() <= 1
            }),
            Property::always(THAW, |settings: &Settings, shard: &Shard| !settings.agents || shard.fenced_acknowledged == 0),
            Property::always(STRAY, |settings: &Settings, shard: &Shard| {
                let astray = |at: u8| {
                    let tablet = &shard.tablets[usize::from(at)];
                    let runs = matches!(tablet.io, Io::Running | Io::Connecting) && tablet.source == shard.primary;
                    at != shard.primary && tablet.up() && !tablet.unsettled && !runs && !has(shard.journal.named, at)
                };
                !shard.is_quiet() || !(0..settings.tablets).any(astray)
            }),
            Property::always(WRITABLE, |_: &Settings, shard: &Shard| {
                let primary = &shard.tablets[usize::from(shard.primary)];
                !shard.is_quiet() || !primary.up() || primary.unsettled || primary.open()
            }),
        ];
        // What never happens proves nothing: the searches must have been there.
        if self.expects == Expects::Safe {
            properties.extend(self.sights());
        }
        properties
    }
}

impl Settings {
    fn sights(&self) -> Vec<Property<Self>> {
        let mut sights = vec![Property::sometimes(PROMOTED, |settings: &Settings, shard: &Shard| {
            shard.primary != 0 && shard.is_quiet() && shard.can_acknowledge(shard.primary, settings)
        })];
        if self.revisions > 1 && !self.anew {
            sights.push(Property::sometimes(UNDONE, |_: &Settings, shard: &Shard| {
                shard.revision > 0 && shard.primary == 0 && shard.is_quiet() && shard.tablets[0].open()
            }));
            sights.push(Property::sometimes(RESUMED, |_: &Settings, shard: &Shard| {
                shard.electors.iter().any(|elector| elector.step == Step::Promote && elector.resumes)
            }));
        }
        if self.freezes && self.agents {
            sights.push(Property::sometimes(THAWED, |_: &Settings, shard: &Shard| {
                let old = &shard.tablets[0];
                shard.froze && old.up() && old.offline && shard.primary != 0
            }));
        }
        sights
    }
}

/// Another tablet is primary, and everything is done.
const PROMOTED: &str = "another tablet is promoted and can acknowledge";
/// A run was given up, and the old primary is as it was.
const UNDONE: &str = "a run is undone";
/// An elector leads the promotion of a dead one to its end.
const RESUMED: &str = "a successor goes forward";
/// A frozen primary comes back and finds itself fenced.
const THAWED: &str = "a primary thaws fenced";

/// Nothing that a client was told is missing on the newest primary. Under `none` nothing is promised.
pub const LOST: &str = "no acknowledged transaction is lost";
/// One writer.
pub const TWO: &str = "never two that can acknowledge";
/// With agents.
pub const THAW: &str = "whoever thaws fenced acknowledges nothing";
/// Everybody replicates from the primary, or stands in the journal for the next run.
pub const STRAY: &str = "nobody is left stopped or astray and forgotten";
/// Done or undone, the shard can be written.
pub const WRITABLE: &str = "a finished run leaves a writable primary";
