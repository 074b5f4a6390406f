//! Cells and their aliases: records of the global topology.

use std::collections::BTreeMap;

use super::{KvEntry, Topo, TopoError, keys, records::decode};
use crate::pb::topodata;

impl Topo {
    /// Names of all cells.
    pub async fn cells(&self) -> Result<Vec<String>, TopoError> {
        self.children_of("cells").await
    }

    /// One cell's record.
    pub async fn cell_info(&self, cell: &str) -> Result<topodata::CellInfo, TopoError> {
        Ok(self.global_store().read(&format!("cell {cell}"), &keys::cell_info(cell)?).await?.value)
    }

    /// Registers a cell.
    pub async fn create_cell_info(&self, cell: &str, info: &topodata::CellInfo) -> Result<(), TopoError> {
        self.global_store().create(&format!("cell {cell}"), &keys::cell_info(cell)?, info).await.map(drop)
    }

    /// All aliases, each a name for several cells.
    pub async fn cells_aliases(&self) -> Result<BTreeMap<String, topodata::CellsAlias>, TopoError> {
        let store = self.global_store();
        let folder = store.root.folder("cells_aliases");
        let listing = store.kv.list(&folder).await.map_err(TopoError::kv("listing the cell aliases"))?;
        let named = |entry: &KvEntry| Some(entry.key.strip_prefix(&folder)?.strip_suffix("/CellsAlias")?.to_owned());
        listing
            .entries
            .iter()
            .filter_map(|entry| Some((named(entry)?, entry)))
            .map(|(name, entry)| Ok((name, decode(entry)?)))
            .collect()
    }

    /// Names directly below a folder of the global root.
    pub(crate) async fn children_of(&self, folder: &str) -> Result<Vec<String>, TopoError> {
        let store = self.global_store();
        let prefix = store.root.folder(folder);
        let listing = store.kv.list_keys(&prefix).await.map_err(TopoError::kv(format!("listing the {folder}")))?;
        Ok(keys::children(&prefix, listing.entries.iter().map(|entry| entry.key.as_str())))
    }
}
