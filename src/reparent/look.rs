//! Looking at a tablet after a call whose outcome is not known: its record and its server together tell.

use super::{ReparentError, declared, run::Run};
use crate::{
    mysql::Position,
    pb::topodata::TabletType,
    tablet::{Call, TabletError},
    topo::TabletAlias,
};

/// What a tablet is by its record and by its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Its record says PRIMARY.
    pub recorded_primary: bool,
    /// The term in its record.
    pub term: Option<declared::Term>,
    /// MySQL accepts writes.
    pub writable: bool,
    /// MySQL waits for acknowledgements.
    pub semi_sync_primary: bool,
    /// A replication source is configured.
    pub replicates: bool,
    /// Record and tablet name the same type: no change of it is under way.
    pub agrees: bool,
}

impl Look {
    /// It is primary in every respect.
    pub fn is_primary(&self) -> bool {
        self.recorded_primary && self.writable
    }
}

/// Why a look failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Topo(#[from] crate::topo::TopoError),
    #[error(transparent)]
    Tablet(#[from] TabletError),
}

impl From<LookError> for ReparentError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Topo(error) => Self::Topo(error),
            LookError::Tablet(source) => Self::TabletUnreachable { source },
        }
    }
}

impl Run {
    /// Reads the tablet's record and its server's state.
    pub async fn look(&self, alias: &TabletAlias) -> Result<Look, LookError> {
        let record = self.hands.topo.tablet(alias).await?.value;
        let full = self.hands.tablets.full_status(&record, Call::read(self.remote())).await?;
        Ok(Look {
            recorded_primary: record.r#type() == TabletType::Primary,
            term: declared::term(record.primary_term_start_time.as_ref()),
            writable: !full.read_only && !full.disk_stalled,
            semi_sync_primary: full.semi_sync_primary_enabled,
            replicates: full.replication_status.is_some(),
            agrees: full.tablet_type == record.r#type,
        })
    }
}

/// Decodes a position that must be one: an empty one would make every wait for it succeed at once.
pub(super) fn decode(alias: &TabletAlias, text: &str) -> Result<Position, ReparentError> {
    let error = |reason: String| ReparentError::Position { alias: alias.clone(), position: text.to_owned(), reason };
    match Position::decode(text) {
        Ok(Position::None) => Err(error("it is empty".to_owned())),
        Ok(position) => Ok(position),
        Err(reason) => Err(error(reason.to_string())),
    }
}
