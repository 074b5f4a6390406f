//! What stands in files that others replace while we run: certificates, keys, users, tokens.
//!
//! Whoever needs it gets it as the files are now, within a second or so. Files that cannot be used, such as a certificate whose key has not
//! been written yet, leave what was last good in force; that is said once, when they stay so.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::{Instant, timeout};

/// How often the files are read at most: they are small, and whoever connects should not wait for the disk.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A disk that hangs holds nobody up for longer; what was last good is taken.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// What the files hold, in the order of their names.
pub type Contents = [Vec<u8>];

type Build<T> = Box<dyn Fn(&Contents) -> Result<T, String> + Send + Sync>;

/// What was made of the files, and how often that changed.
#[derive(Debug)]
pub struct Version<T> {
    /// It.
    pub value: T,
    /// Counts from 0, one up with each change.
    pub number: u64,
}

/// Something that is made of files. Cheap to clone.
pub struct Rotating<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Rotating<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<T> {
    what: &'static str,
    files: Vec<PathBuf>,
    build: Build<T>,
    current: ArcSwap<Version<T>>,
    looks: Mutex<Looks>,
}

/// What the last look found.
struct Looks {
    next: Instant,
    is_looking: bool,
    content: Result<Vec<Vec<u8>>, String>,
    /// Why the content cannot be used.
    broken: Option<String>,
    is_said: bool,
}

/// Reads one file, and names it when it cannot be read.
pub fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
}

impl<T: Send + Sync + 'static> Rotating<T> {
    /// Reads the files and makes `what` of them. Words of an error must not contain what the files hold.
    pub fn load<E: ToString>(
        what: &'static str,
        files: Vec<PathBuf>,
        build: impl Fn(&Contents) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let build: Build<T> = Box::new(move |contents| build(contents).map_err(|error| error.to_string()));
        let content = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
        let value = build(&content)?;
        let looks =
            Looks { next: Instant::now() + LOOK_EVERY, is_looking: false, content: Ok(content), broken: None, is_said: false };
        let current = ArcSwap::from_pointee(Version { value, number: 0 });
        Ok(Self { inner: Arc::new(Inner { what, files, build, current, looks: Mutex::new(looks) }) })
    }

    /// It, as the files are now; where they cannot be used, as they were when they last could.
    pub async fn current(&self) -> Arc<Version<T>> {
        if self.inner.begin_look() {
            let inner = self.inner.clone();
            let looking = tokio::task::spawn_blocking(move || inner.look());
            // A look that takes longer ends by itself, and none is begun beside it.
            let _ = timeout(LOOK_WAIT, looking).await;
        }
        self.inner.current.load_full()
    }

    /// Why the files cannot be used now; `None` = they can.
    pub fn broken(&self) -> Option<String> {
        self.inner.looks().broken.clone()
    }
}

impl<T> Inner<T> {
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_look(&self) -> bool {
        let (mut looks, now) = (self.looks(), Instant::now());
        let due = !looks.is_looking && now >= looks.next;
        if due {
            (looks.is_looking, looks.next) = (true, now + LOOK_EVERY);
        }
        due
    }

    fn look(&self) {
        let content = self.files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>();
        let mut looks = self.looks();
        looks.is_looking = false;
        if content == looks.content {
            // It stays so: nobody is in the middle of writing it.
            if let Some(error) = looks.broken.clone().filter(|_| !looks.is_said) {
                looks.is_said = true;
                tracing::warn!(error, "{}: the files cannot be used; what was last good stays in force", self.what);
            }
            return;
        }
        let made = content.as_ref().map_err(String::clone).and_then(|content| (self.build)(content));
        looks.content = content;
        looks.is_said = false;
        looks.broken = made.as_ref().err().cloned();
        if let Ok(value) = made {
            let number = self.current.load().number + 1;
            self.current.store(Arc::new(Version { value, number }));
            tracing::info!("{}: the files have changed, and are in force", self.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(file: &Path) -> Result<Rotating<u32>, String> {
        Rotating::load("a number", vec![file.to_owned()], |contents| {
            String::from_utf8_lossy(&contents[0]).trim().parse::<u32>().map_err(|_| "no number")
        })
    }

    async fn later(rotating: &Rotating<u32>) -> u32 {
        tokio::time::advance(LOOK_EVERY).await;
        rotating.current().await.value
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_taken_and_what_is_broken_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        assert!(number(&file).err().unwrap().contains("number: No such file"));
        std::fs::write(&file, "x").unwrap();
        assert_eq!(number(&file).err().unwrap(), "no number");
        std::fs::write(&file, "1").unwrap();
        let rotating = number(&file).unwrap();
        std::fs::write(&file, "2").unwrap();
        assert_eq!(later(&rotating).await, 2);
        assert_eq!(rotating.current().await.number, 1);
        std::fs::write(&file, "half").unwrap();
        assert_eq!(later(&rotating).await, 2, "what was last good");
        assert_eq!(rotating.broken().unwrap(), "no number");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(later(&rotating).await, 2);
        assert!(rotating.broken().unwrap().contains("No such file"));
        std::fs::write(&file, "3").unwrap();
        assert_eq!((later(&rotating).await, rotating.broken()), (3, None));
    }
}
