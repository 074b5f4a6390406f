//! Names of things in the topology: cells, tablets, keyspaces, shards.

use std::{fmt, str::FromStr};

use crate::pb::topodata;

/// Longest name of a keyspace or shard that Vitess accepts, in bytes.
const NAME_LEN_MAX: usize = 64;

/// A name that is no name: which kind it should be, what was given, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a valid {kind}: {rule}")]
pub struct NameError {
    kind: &'static str,
    given: String,
    rule: &'static str,
}

fn name_error(kind: &'static str, given: &str, rule: &'static str) -> NameError {
    let mut given = given.to_owned();
    if given.len() > 2 * NAME_LEN_MAX {
        given = given.chars().take(NAME_LEN_MAX).chain("...".chars()).collect();
    }
    NameError { kind, given, rule }
}

/// Identity of a tablet: its cell and a number that is unique in that cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TabletAlias {
    /// The cell whose topology holds the tablet's record.
    pub cell: String,
    /// The number within the cell.
    pub uid: u32,
}

impl TabletAlias {
    /// Makes an alias of a checked cell name and a number.
    pub fn new(cell: impl Into<String>, uid: u32) -> Result<Self, NameError> {
        let cell = cell.into();
        check_cell(&cell)?;
        Ok(Self { cell, uid })
    }
}

impl fmt::Display for TabletAlias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:010}", self.cell, self.uid)
    }
}

impl FromStr for TabletAlias {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || name_error("tablet alias", text, "write it as CELL-UID, such as zone1-0000000100");
        let (cell, uid) = text.rsplit_once('-').ok_or_else(error)?;
        if uid.is_empty() || !uid.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let uid = uid.parse().map_err(|_| error())?;
        Self::new(cell, uid).map_err(|_| error())
    }
}

impl TryFrom<&topodata::TabletAlias> for TabletAlias {
    type Error = NameError;

    fn try_from(alias: &topodata::TabletAlias) -> Result<Self, NameError> {
        Self::new(alias.cell.clone(), alias.uid)
    }
}

impl From<&TabletAlias> for topodata::TabletAlias {
    fn from(alias: &TabletAlias) -> Self {
        Self { cell: alias.cell.clone(), uid: alias.uid }
    }
}

/// Identity of a shard, printed as `KEYSPACE/SHARD`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId {
    /// The keyspace that the shard is a part of.
    pub keyspace: String,
    /// The shard's name: `0`, `-`, or a range in lower-case hex such as `80-`.
    pub shard: String,
}

impl ShardId {
    /// Checks both names; a key range comes out in lower case, as tablets register it.
    pub fn new(keyspace: &str, shard: &str) -> Result<Self, NameError> {
        check_name("keyspace name", keyspace)?;
        check_name("shard name", shard)?;
        let shard = if shard.contains('-') { shard.to_ascii_lowercase() } else { shard.to_owned() };
        Ok(Self { keyspace: keyspace.to_owned(), shard })
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.keyspace, self.shard)
    }
}

impl FromStr for ShardId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (keyspace, shard) =
            text.split_once('/').ok_or_else(|| name_error("shard", text, "write it as KEYSPACE/SHARD, such as commerce/0"))?;
        Self::new(keyspace, shard)
    }
}

/// The key range that a shard's name stands for: none for a name without a dash, else the hex digits before and after it.
pub fn key_range(shard: &str) -> Result<Option<topodata::KeyRange>, NameError> {
    let error = || {
        name_error("key range", shard, "write it as two even-length hex numbers, the lower one first, such as 40-80, -80 or -")
    };
    let Some((start, end)) = shard.split_once('-') else { return Ok(None) };
    let (start, end) = (hex(start).ok_or_else(error)?, hex(end).ok_or_else(error)?);
    if !end.is_empty() && bound(&start) >= bound(&end) {
        return Err(error());
    }
    Ok(Some(topodata::KeyRange { start, end }))
}

/// Whether two key ranges have an id in common; no range at all is the full range.
pub(crate) fn key_ranges_overlap(a: Option<&topodata::KeyRange>, b: Option<&topodata::KeyRange>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let before = |end: &[u8], start: &[u8]| !end.is_empty() && bound(end) <= bound(start);
    !before(&a.end, &b.start) && !before(&b.end, &a.start)
}

/// Whether every id of `inner` is in `outer`.
pub fn key_range_contains(outer: &topodata::KeyRange, inner: &topodata::KeyRange) -> bool {
    let ends_within = outer.end.is_empty() || (!inner.end.is_empty() && bound(&inner.end) <= bound(&outer.end));
    bound(&outer.start) <= bound(&inner.start) && ends_within
}

/// Zeros at the end of a bound mean nothing: 80 and 8000 part the same ids.
fn bound(id: &[u8]) -> &[u8] {
    let len = id.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &id[..len]
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes();
    let value = |digit: &u8| char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks(2).map(|pair| Some(value(&pair[0])? << 4 | value(&pair[1])?)).collect()
}

/// Checks a keyspace or shard name: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
pub fn check_name(kind: &'static str, name: &str) -> Result<(), NameError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(fits) {
        return Err(name_error(kind, name, "use 1 to 64 letters, digits, underscores and dashes"));
    }
    Ok(())
}

/// Checks a cell name: letters, digits, dots, dashes, underscores; `global` is taken by the global topology.
pub fn check_cell(name: &str) -> Result<(), NameError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if name.is_empty()
        || name.len() > NAME_LEN_MAX
        || !name.bytes().all(fits)
        || name == "global"
        || name.bytes().all(|b| b == b'.')
    {
        return Err(name_error("cell name", name, "use 1 to 64 letters, digits, dots, underscores and dashes, and not `global`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_prints_ten_digits_and_reads_any_number_of_them() {
        let alias: TabletAlias = "zone-1-101".parse().unwrap();
        assert_eq!((alias.cell.as_str(), alias.uid), ("zone-1", 101));
        assert_eq!(alias.to_string(), "zone-1-0000000101");
        assert_eq!(alias.to_string().parse(), Ok(alias));
    }

    #[test]
    fn what_is_no_alias_is_named_in_the_error() {
        for text in ["", "zone1", "zone1-", "-1", "zone1-+1", "zone1-4294967296", "a/b-1", "global-1", "..-1"] {
            let error = text.parse::<TabletAlias>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("CELL-UID"), "{error}");
        }
    }

    #[test]
    fn a_key_range_is_lower_case_and_a_plain_name_is_kept() {
        assert_eq!(ShardId::new("commerce", "-8A").unwrap().to_string(), "commerce/-8a");
        assert_eq!("commerce/Main".parse::<ShardId>().unwrap().shard, "Main");
        for text in ["commerce", "/0", "commerce/", "a/b/c", "a b/0"] {
            assert!(text.parse::<ShardId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_shard_name_tells_its_key_range() {
        let range = |start: &[u8], end: &[u8]| Some(topodata::KeyRange { start: start.to_vec(), end: end.to_vec() });
        assert_eq!(key_range("0"), Ok(None));
        assert_eq!(key_range("-"), Ok(range(&[], &[])));
        assert_eq!(key_range("-80"), Ok(range(&[], &[0x80])));
        assert_eq!(key_range("4080-C0"), Ok(range(&[0x40, 0x80], &[0xc0])));
        for name in ["80-40", "80-80", "80-8000", "8-", "-8x", "40-80-c0", "-é", "-00"] {
            let error = key_range(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("hex"), "{error}");
        }
    }

    #[test]
    fn a_range_contains_its_parts() {
        let contains = |outer: &str, inner: &str| {
            key_range_contains(&key_range(outer).unwrap().unwrap(), &key_range(inner).unwrap().unwrap())
        };
        assert!(contains("-", "40-80") && contains("-80", "-8000") && contains("80-", "c0-") && contains("40-c0", "40-80"));
        assert!(!contains("-80", "-") && !contains("-80", "40-c0") && !contains("80-c0", "c0-") && !contains("80-", "-80"));
    }

    #[test]
    fn ranges_that_only_touch_do_not_overlap() {
        let overlap = |a: &str, b: &str| {
            let (a, b) = (key_range(a).unwrap(), key_range(b).unwrap());
            assert_eq!(key_ranges_overlap(a.as_ref(), b.as_ref()), key_ranges_overlap(b.as_ref(), a.as_ref()));
            key_ranges_overlap(a.as_ref(), b.as_ref())
        };
        assert!(overlap("-", "-80") && overlap("0", "80-") && overlap("-80", "40-c0") && overlap("-", "-"));
        assert!(!overlap("-80", "80-") && !overlap("40-80", "8000-c0"));
    }
}
