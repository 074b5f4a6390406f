//! Durability policies: who may be promoted, who acknowledges whom, what is proven revoked and what is established (pure).
//!
//! The policies and predicates are Vitess's; types come from the tablets' *records*.

mod extra;
mod policy;
mod proof;

pub use extra::{Enforced, Extra, ExtraError, with_extra};
pub use policy::{Member, PROMOTION_RULE_TAG, Policy, PolicyError, PromotionRule, RuleError, policy};
pub use proof::{
    Established, Members, NotEstablished, NotRevoked, Revoked, RevokedBy, ackers, can_establish, have_revoked, revoked_for,
};
