//! The fence token: the highest shard-lock revision that has been here (safety.md section 1).

use std::{
    io,
    path::{Path, PathBuf},
};

use super::AgentError;

/// Metadata key of a call made under a shard lock: the create revision of the lock's key, in decimal.
pub const LOCK_REVISION_KEY: &str = "vtelector-lock-revision";

/// Remembers the highest lock revision seen and refuses lower ones, so that an elector that was paused while another took the lock
/// cannot act with it any more. Calls without a revision (vtctld, VTOrc) pass: they know no token.
#[derive(Debug)]
pub struct Fence {
    file: PathBuf,
    seen: i64,
}

impl Fence {
    /// Reads what an earlier process saw. A missing file means nothing was seen.
    pub async fn open(data_dir: &Path, name: &str) -> Result<Self, AgentError> {
        let file = data_dir.join(format!("{name}.lock-revision"));
        let failed = |doing, source| AgentError::File { doing, path: file.display().to_string(), source };
        tokio::fs::create_dir_all(data_dir).await.map_err(|source| failed("creating the folder of", source))?;
        let seen = match tokio::fs::read_to_string(&file).await {
            Ok(text) => text.trim().parse().map_err(|_| {
                failed(
                    "understanding",
                    io::Error::other(format!("{text:?} is no revision; delete the file when no elector is at work")),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(failed("reading", error)),
        };
        Ok(Self { file, seen })
    }

    /// Whether the holder of a later lock has been here since.
    pub fn overtaken(&self, revision: Option<i64>) -> bool {
        revision.is_some_and(|given| given < self.seen)
    }

    /// Lets a call with this revision pass, or refuses it. To be asked under the action lock, right before acting, by whoever takes it.
    ///
    /// The file is replaced, not synced: it must outlive this process, and a host that goes down takes the calls under way with it.
    pub async fn admit(&mut self, revision: Option<i64>) -> Result<(), AgentError> {
        let Some(given) = revision else { return Ok(()) };
        if self.overtaken(revision) {
            return Err(AgentError::Overtaken { given, seen: self.seen, file: self.file.display().to_string() });
        }
        if given > self.seen {
            let next = self.file.with_extension("next");
            let failed = |source| AgentError::File { doing: "writing", path: next.display().to_string(), source };
            tokio::fs::write(&next, given.to_string()).await.map_err(failed)?;
            tokio::fs::rename(&next, &self.file).await.map_err(failed)?;
            self.seen = given;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lower_revision_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut fence = Fence::open(dir.path(), "zone1-1").await.unwrap();
        fence.admit(Some(10)).await.unwrap();
        fence.admit(None).await.unwrap();
        fence.admit(Some(10)).await.unwrap();
        let mut fence = Fence::open(dir.path(), "zone1-1").await.unwrap();
        let refused = fence.admit(Some(9)).await.unwrap_err().to_string();
        assert!(refused.starts_with("overtaken: "), "{refused}");
        fence.admit(Some(11)).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_revision_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("zone1-1.lock-revision"), "x").unwrap();
        let error = Fence::open(dir.path(), "zone1-1").await.unwrap_err().to_string();
        assert!(error.contains("zone1-1.lock-revision") && error.contains("delete"), "{error}");
    }
}
