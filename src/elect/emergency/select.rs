//! Which of the tablets that may be promoted is.

use std::collections::BTreeMap;

use super::{
    Caveat, Chosen, EmergencyRejection, NoPromotion, Proof, Testimony,
    complete::{Target, unusable},
    history::{Histories, Standing, ahead},
    rank::Field,
    view::View,
    wish::reject_by_record,
};
use crate::{
    durability::{Established, Members, NotEstablished, Revoked, can_establish},
    mysql::GtidSet,
    topo::TabletAlias,
};

/// A tablet that may be promoted, with what speaks against it all the same: any other goes first.
struct Fit<'a> {
    alias: &'a TabletAlias,
    tablet: &'a Testimony,
    established: Result<Established, NotEstablished>,
    stranded: BTreeMap<TabletAlias, GtidSet>,
}

impl Fit<'_> {
    /// The lower one goes first.
    fn tier(&self) -> (bool, bool, bool) {
        (self.established.is_err(), !self.stranded.is_empty(), self.tablet.backup_running)
    }

    /// Why it comes after tablets without such a flaw.
    fn flaw(&self) -> Option<EmergencyRejection> {
        let purged = |(stranded, missing): (&TabletAlias, &GtidSet)| EmergencyRejection::Purged {
            stranded: stranded.clone(),
            missing: missing.clone(),
        };
        match &self.established {
            Err(not) => Some(EmergencyRejection::NotEstablished(Box::new(not.clone()))),
            Ok(_) if self.tablet.backup_running => Some(EmergencyRejection::InBackup),
            Ok(_) => self.stranded.iter().next().map(purged),
        }
    }
}

/// Everything that the choice is made from.
pub(super) struct Selection<'v, 'a> {
    pub view: &'v View<'a>,
    pub histories: &'v Histories<'a>,
    pub target: &'v Target<'a>,
    pub revoked: Revoked,
    pub caveats: Vec<Caveat>,
}

impl<'a> Selection<'_, 'a> {
    /// Chooses, and says why not of everybody else.
    pub fn choose(self) -> Result<Chosen, NoPromotion> {
        let mut rejected = BTreeMap::new();
        let mut fit = Vec::new();
        for (alias, tablet) in self.view.evidence.tablets {
            match self.consider(alias, tablet) {
                Ok(able) => fit.push(able),
                Err(why) => {
                    rejected.insert(alias.clone(), why);
                }
            }
        }
        self.check_named(&fit, &rejected)?;
        let field = self.field();
        fit.sort_by_cached_key(|fit| (!self.is_wanted(fit.alias), fit.tier(), field.by_rule(fit.alias, fit.tablet)));
        let Some(elect) = fit.first().filter(|fit| self.is_wanted(fit.alias)) else {
            return Err(self.nobody(rejected));
        };
        let allowed = elect.established.is_ok() || self.view.wish.allow_not_established;
        if !allowed {
            rejected.extend(fit.iter().filter_map(|fit| Some((fit.alias.clone(), fit.flaw()?))));
            return Err(self.nobody(rejected));
        }
        rejected.extend(fit[1..].iter().map(|fit| (fit.alias.clone(), self.why_not(elect, fit))));
        Ok(self.chosen(elect, &fit, rejected))
    }

    fn is_wanted(&self, alias: &TabletAlias) -> bool {
        self.view.wish.named.as_ref().is_none_or(|named| named == alias)
    }

    fn nobody(&self, rejected: BTreeMap<TabletAlias, EmergencyRejection>) -> NoPromotion {
        NoPromotion::NobodyFit { shard: self.view.evidence.shard.clone(), rejected }
    }

    fn field(&self) -> Field<'_, 'a> {
        let all = self.target.usable.iter().map(|(alias, tablet)| (*alias, *tablet)).collect();
        Field { view: self.view, all }
    }

    /// What forbids a tablet's promotion, else what it would be as a primary.
    fn consider(&self, alias: &'a TabletAlias, tablet: &'a Testimony) -> Result<Fit<'a>, EmergencyRejection> {
        let why = forbidden(self.view, self.histories, alias, tablet).or_else(|| self.newer(alias, tablet));
        if let Some(why) = why {
            return Err(why);
        }
        self.source(alias, tablet)?;
        let stranded: BTreeMap<_, _> = self
            .followers(alias)
            .filter_map(|(follower, t)| {
                let missing = missing(tablet, t).filter(|missing| !missing.is_empty())?;
                Some((follower.clone(), missing))
            })
            .collect();
        let able = |(_, t): &(&TabletAlias, &Testimony)| (t.was_replicating || !t.is_replica) && t.follow_failed.is_none();
        let living = self.followers(alias).filter(able).filter(|(follower, _)| !stranded.contains_key(*follower));
        let mut living: Members = living.map(|(alias, t)| (alias.clone(), t.tablet_type)).collect();
        living.insert(alias.clone(), tablet.tablet_type);
        Ok(Fit {
            alias,
            tablet,
            established: can_establish(self.view.evidence.policy, &self.view.member(alias), &living),
            stranded,
        })
    }

    /// Who would follow that primary: whoever was reached and has nothing that the shard has not. A server that was fenced accepts nobody's
    /// commands, and a blank one first has everything to copy.
    fn followers(&self, primary: &TabletAlias) -> impl Iterator<Item = (&'a TabletAlias, &'a Testimony)> {
        self.view.reached().filter(move |(alias, _)| *alias != primary).filter(|(alias, _)| {
            match self.histories.standing.get(*alias) {
                Some(Standing::Accepted | Standing::Out(EmergencyRejection::JournalUnreadable(_))) => {
                    self.view.received(alias).is_some_and(|received| self.target.position.contains(received))
                }
                _ => false,
            }
        })
    }

    fn newer(&self, alias: &TabletAlias, tablet: &Testimony) -> Option<EmergencyRejection> {
        let series = |t: &Testimony| t.mysql.as_ref()?.version.map(|(major, minor, _)| (major, minor));
        let own = series(tablet)?;
        let (than, _) = self.followers(alias).find(|(_, other)| series(other).is_some_and(|other| other < own))?;
        Some(EmergencyRejection::NewerMysql { than: than.clone() })
    }

    /// Whom a tablet would copy from: nobody when it holds everything already.
    fn source(&self, alias: &TabletAlias, tablet: &Testimony) -> Result<Option<&'a TabletAlias>, EmergencyRejection> {
        if tablet.received.contains(self.target.position) {
            return Ok(None);
        }
        let field = self.field();
        let leaders = field.all.iter().filter(|(other, t)| *other != alias && t.received.contains(self.target.position));
        let mut leaders: Vec<_> = leaders.copied().collect();
        leaders.sort_by_cached_key(|(other, t)| field.by_progress(other, t));
        let gap = |leader: &Testimony| missing(leader, tablet).filter(|missing| !missing.is_empty());
        match leaders.iter().find(|(_, leader)| gap(leader).is_none()) {
            Some((leader, _)) => Ok(Some(leader)),
            None => match leaders.first().and_then(|(leader, t)| Some((leader, gap(t)?))) {
                Some((leader, missing)) => Err(EmergencyRejection::CannotCopy { from: (*leader).clone(), missing }),
                None => Err(EmergencyRejection::Behind),
            },
        }
    }

    /// A name is a wish, not a bypass.
    fn check_named(&self, fit: &[Fit<'a>], rejected: &BTreeMap<TabletAlias, EmergencyRejection>) -> Result<(), NoPromotion> {
        let Some(named) = &self.view.wish.named else { return Ok(()) };
        if let Some(why) = rejected.get(named) {
            return Err(NoPromotion::NotUsable { alias: named.clone(), why: why.clone() });
        }
        let Some(own) = fit.iter().find(|fit| fit.alias == named) else { return Ok(()) };
        if let Err(not) = &own.established
            && !self.view.wish.allow_not_established
        {
            return Err(NoPromotion::NoProgress(not.clone()));
        }
        let free = fit.iter().find(|fit| !fit.tablet.backup_running && fit.established.is_ok() >= own.established.is_ok());
        match free.filter(|_| own.tablet.backup_running) {
            Some(free) => Err(NoPromotion::InBackup { alias: named.clone(), free: free.alias.clone() }),
            None => Ok(()),
        }
    }

    fn why_not(&self, elect: &Fit<'a>, other: &Fit<'a>) -> EmergencyRejection {
        match other.flaw() {
            _ if self.view.wish.named.is_some() => EmergencyRejection::NotNamed,
            Some(flaw) if other.tier() > elect.tier() => flaw,
            _ if ahead(self.target.position, &other.tablet.received)
                && !ahead(&other.tablet.received, &elect.tablet.received) =>
            {
                EmergencyRejection::Behind
            }
            _ => EmergencyRejection::Outranked,
        }
    }

    fn chosen(self, elect: &Fit<'a>, fit: &[Fit<'a>], rejected: BTreeMap<TabletAlias, EmergencyRejection>) -> Chosen {
        let rule = |fit: &Fit<'a>| self.view.evidence.policy.promotion_rule(&self.view.member(fit.alias));
        let equal = |other: &&Fit<'a>| {
            self.is_wanted(other.alias)
                && other.tier() == elect.tier()
                && other.tablet.received == elect.tablet.received
                && rule(other) == rule(elect)
        };
        let equals = fit.iter().filter(equal).map(|fit| fit.alias.clone()).collect();
        let errant = self.histories.standing.iter().filter_map(|(alias, standing)| match standing {
            Standing::Errant { all, .. } => Some(((*alias).clone(), all.clone())),
            _ => None,
        });
        let mut caveats = self.caveats.clone();
        let stranded = elect.stranded.iter();
        caveats.extend(stranded.map(|(tablet, missing)| Caveat::Stranded { tablet: tablet.clone(), missing: missing.clone() }));
        caveats.extend(elect.established.clone().err().map(Caveat::NotEstablished));
        let complete = self.target.complete();
        Chosen {
            elect: elect.alias.clone(),
            equals,
            source: self.source(elect.alias, elect.tablet).ok().flatten().cloned(),
            proof: Proof { revoked: self.revoked.clone(), complete, established: elect.established.clone() },
            errant: errant.collect(),
            rejected,
            caveats,
        }
    }
}

/// What forbids a tablet's promotion, whoever else there is.
pub(super) fn forbidden(
    view: &View<'_>,
    histories: &Histories<'_>,
    alias: &TabletAlias,
    tablet: &Testimony,
) -> Option<EmergencyRejection> {
    let by_record = || reject_by_record(view.evidence.policy, view.evidence.primary, &view.member(alias), view.wish);
    let by_history = || match histories.standing.get(alias) {
        Some(Standing::Accepted) => None,
        Some(Standing::Errant { all, .. }) => Some(EmergencyRejection::Errant(all.clone())),
        Some(Standing::Out(why)) => Some(why.clone()),
        None => Some(EmergencyRejection::PositionUnknown),
    };
    let by_look = || tablet.unfit.clone().map(EmergencyRejection::Unfit);
    view.unreached(alias).or_else(by_record).or_else(by_history).or_else(|| unusable(tablet, histories.gtids)).or_else(by_look)
}

/// What `from` has purged and `to` lacks; `None` when it cannot be told.
fn missing(from: &Testimony, to: &Testimony) -> Option<GtidSet> {
    Some(from.mysql.as_ref()?.purged.subtract(to.received.gtid()?))
}
