//! Keeps the fields of a record that this program does not know.
//!
//! The decoder drops them, and a record that is read, changed and written back would lose what a newer release put there. So the
//! new bytes are walked beside the original ones, with the descriptors of the messages, and what only the original has is added
//! at the end of its message, at every level.

use std::{collections::BTreeMap, sync::LazyLock};

use prost::{
    Message,
    bytes::Buf,
    encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint},
};
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};

/// Field number to what the field holds.
type Fields = BTreeMap<u32, Kind>;

#[derive(Clone)]
enum Kind {
    /// No message: its bytes are the value's own.
    Scalar,
    /// One message, of this type.
    Message(String),
    /// Many messages, of this type.
    Messages(String),
    /// A map whose values are messages of this type.
    Map(String),
}

/// Every message of our protobuf files by its full name (with a leading dot, as descriptors write it).
static MESSAGES: LazyLock<BTreeMap<String, Fields>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(crate::pb::DESCRIPTORS).unwrap_or_default();
    let mut messages = BTreeMap::new();
    for file in &set.file {
        for message in &file.message_type {
            learn(&format!(".{}", file.package()), message, &mut messages);
        }
    }
    messages
});

fn learn(scope: &str, message: &DescriptorProto, messages: &mut BTreeMap<String, Fields>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        learn(&name, nested, messages);
    }
    let entry_value = |type_name: &str| {
        let entry = message.nested_type.iter().find(|nested| format!("{name}.{}", nested.name()) == type_name)?;
        let is_map = entry.options.as_ref().is_some_and(|options| options.map_entry());
        let value = entry.field.iter().find(|field| field.number() == 2)?;
        is_map.then(|| value.type_name().to_owned())
    };
    let fields = message.field.iter().map(|field| {
        let is_message = field.r#type() == prost_types::field_descriptor_proto::Type::Message;
        let type_name = field.type_name().to_owned();
        let kind = match (is_message, field.label()) {
            (false, _) => Kind::Scalar,
            (true, Label::Repeated) => match entry_value(&type_name) {
                Some(value) if value.is_empty() => Kind::Scalar,
                Some(value) => Kind::Map(value),
                None => Kind::Messages(type_name),
            },
            (true, _) => Kind::Message(type_name),
        };
        (field.number().unsigned_abs(), kind)
    });
    let fields = fields.collect();
    messages.insert(name, fields);
}

/// One field as it stands on the wire.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    number: u32,
    /// Key and value, as they were.
    pub(super) whole: &'a [u8],
    /// The value; without its length where it has one.
    value: &'a [u8],
}

/// Adds to `new`, the encoding of a message of type `message` (such as `topodata.Shard`), what `original` has and the message
/// type does not know. `None` when `original` is no well-formed message.
pub(crate) fn keep_unknown(message: &str, original: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    merge(&format!(".{message}"), original, new)
}

fn merge(message: &str, original: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    let Some(fields) = MESSAGES.get(message) else { return Some(new.to_vec()) };
    let (old, new) = (split(original)?, split(new)?);
    let mut out = Vec::with_capacity(original.len().max(new.len()));
    let mut partners = BTreeMap::new();
    for (number, kind) in fields {
        if let Kind::Messages(name) = kind {
            partners.insert(*number, pair(name, &values(&old, *number), &values(&new, *number))?.into_iter());
        }
    }
    for field in &new {
        match fields.get(&field.number) {
            Some(Kind::Message(name)) => {
                // Parts of one message that stand apart are one message, by the rules of the format.
                put(&mut out, field.number, &merge(name, &values(&old, field.number).concat(), field.value)?);
            }
            Some(Kind::Messages(name)) => {
                let partner = partners.get_mut(&field.number)?.next()?;
                put(&mut out, field.number, &merge(name, partner, field.value)?);
            }
            Some(Kind::Map(name)) => put(&mut out, field.number, &merge_entry(name, field, &old)?),
            Some(Kind::Scalar) | None => out.extend_from_slice(field.whole),
        }
    }
    old.iter().filter(|field| !fields.contains_key(&field.number)).for_each(|field| out.extend_from_slice(field.whole));
    Some(out)
}

/// A map entry: its partner is the entry with the same key; what is unknown stands in the value.
fn merge_entry(value_type: &str, field: &Field<'_>, old: &[Field<'_>]) -> Option<Vec<u8>> {
    let part = |entry: &Field<'_>, number: u32| -> Option<Vec<u8>> { Some(values(&split(entry.value)?, number).concat()) };
    let key = part(field, 1)?;
    let partner = old.iter().rfind(|entry| entry.number == field.number && part(entry, 1).is_some_and(|other| other == key));
    let Some(partner) = partner else { return Some(field.value.to_vec()) };
    let value = merge(value_type, &part(partner, 2)?, &part(field, 2)?)?;
    let mut out: Vec<u8> = split(field.value)?.iter().filter(|f| f.number == 1).flat_map(|f| f.whole).copied().collect();
    put(&mut out, 2, &value);
    Some(out)
}

/// The values of one field, in order.
fn values<'a>(fields: &[Field<'a>], number: u32) -> Vec<&'a [u8]> {
    fields.iter().filter(|field| field.number == number).map(|field| field.value).collect()
}

/// Which original element each new element of a repeated field comes from: the one with the same known content; or, where as many
/// elements stand there as before, the one in the same place that no other element comes from.
fn pair<'a>(name: &str, originals: &[&'a [u8]], news: &[&[u8]]) -> Option<Vec<&'a [u8]>> {
    let known: Vec<Vec<u8>> = originals.iter().map(|original| strip(name, original)).collect::<Option<_>>()?;
    let mut free = vec![true; originals.len()];
    let mut partners: Vec<Option<usize>> = Vec::with_capacity(news.len());
    for new in news {
        let new = strip(name, new)?;
        let found = (0..originals.len()).find(|&i| free[i] && known[i] == new);
        if let Some(i) = found {
            free[i] = false;
        }
        partners.push(found);
    }
    let same_count = originals.len() == news.len();
    let of = |(place, partner): (usize, Option<usize>)| match partner {
        Some(i) => originals[i],
        None if same_count && free[place] => originals[place],
        None => &[],
    };
    Some(partners.into_iter().enumerate().map(of).collect())
}

/// The known part of a message, fields in ascending order: what two encodings of the same content have in common.
fn strip(message: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let Some(fields) = MESSAGES.get(message) else { return Some(bytes.to_vec()) };
    let mut known: Vec<Field<'_>> = split(bytes)?.into_iter().filter(|field| fields.contains_key(&field.number)).collect();
    known.sort_by_key(|field| field.number);
    let mut out = Vec::with_capacity(bytes.len());
    for field in known {
        match &fields[&field.number] {
            Kind::Message(name) | Kind::Messages(name) => put(&mut out, field.number, &strip(name, field.value)?),
            Kind::Map(_) | Kind::Scalar => out.extend_from_slice(field.whole),
        }
    }
    Some(out)
}

fn put(out: &mut Vec<u8>, number: u32, message: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

/// Takes a message apart; `None` when it is not well-formed.
pub(super) fn split(bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut rest = bytes;
    let mut fields = Vec::new();
    while rest.has_remaining() {
        fields.push(next(&mut rest)?);
    }
    Some(fields)
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let start = *rest;
    let (number, wire) = decode_key(rest).ok()?;
    let body = *rest;
    let (skip, len) = match wire {
        WireType::Varint => {
            decode_varint(rest).ok()?;
            (0, body.len() - rest.len())
        }
        WireType::SixtyFourBit => (0, 8),
        WireType::ThirtyTwoBit => (0, 4),
        WireType::LengthDelimited => {
            let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
            (body.len() - rest.len(), len)
        }
        WireType::StartGroup => (0, group_len(body, number)?),
        WireType::EndGroup => return None,
    };
    let end = skip.checked_add(len)?;
    let value = body.get(skip..end)?;
    *rest = &body[end..];
    Some(Field { number, whole: &start[..start.len() - rest.len()], value })
}

/// Length of a group's body with its end mark. Groups nest: the marks on the way are counted, so the depth needs no bound.
fn group_len(body: &[u8], number: u32) -> Option<usize> {
    let mut open = vec![number];
    let mut rest = body;
    while let Some(&innermost) = open.last() {
        let before = rest;
        let (number, wire) = decode_key(&mut rest).ok()?;
        match wire {
            WireType::StartGroup => open.push(number),
            WireType::EndGroup if number == innermost => drop(open.pop()),
            WireType::EndGroup => return None,
            _ => {
                rest = before;
                next(&mut rest)?;
            }
        }
    }
    Some(body.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;

    use super::keep_unknown;
    use crate::pb::topodata;

    /// Records as a later release might define them: ours, with one more field at every level.
    mod later {
        use std::collections::BTreeMap;

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Alias {
            #[prost(string, tag = "1")]
            pub cell: String,
            #[prost(uint32, tag = "2")]
            pub uid: u32,
            #[prost(string, repeated, tag = "30")]
            pub rack: Vec<String>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct TabletControl {
            #[prost(int32, tag = "1")]
            pub tablet_type: i32,
            #[prost(string, repeated, tag = "2")]
            pub cells: Vec<String>,
            #[prost(bool, tag = "5")]
            pub frozen: bool,
            #[prost(fixed64, tag = "77")]
            pub since: u64,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Shard {
            #[prost(message, optional, tag = "1")]
            pub primary_alias: Option<Alias>,
            #[prost(message, repeated, tag = "6")]
            pub tablet_controls: Vec<TabletControl>,
            #[prost(bool, tag = "7")]
            pub is_primary_serving: bool,
            #[prost(message, optional, tag = "1000")]
            pub witness: Option<Alias>,
            #[prost(fixed32, tag = "1001")]
            pub color: u32,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Rule {
            #[prost(string, tag = "1")]
            pub name: String,
            #[prost(double, tag = "2")]
            pub ratio: f64,
            #[prost(string, tag = "9")]
            pub author: String,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct ThrottlerConfig {
            #[prost(bool, tag = "1")]
            pub enabled: bool,
            #[prost(btree_map = "string, message", tag = "5")]
            pub throttled_apps: BTreeMap<String, Rule>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Keyspace {
            #[prost(string, tag = "8")]
            pub durability_policy: String,
            #[prost(message, optional, tag = "9")]
            pub throttler_config: Option<ThrottlerConfig>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct Node {
            #[prost(message, optional, tag = "1")]
            pub tablet_alias: Option<Alias>,
            #[prost(sint64, tag = "2")]
            pub weight: i64,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub struct ShardReplication {
            #[prost(message, repeated, tag = "1")]
            pub nodes: Vec<Node>,
        }
    }

    prop_compose! {
        fn alias()(cell in "[a-z]{0,3}", uid in 0u32..4, rack in prop::collection::vec("[a-z]{0,2}", 0..3)) -> later::Alias {
            later::Alias { cell, uid, rack }
        }
    }
    prop_compose! {
        fn control()(tablet_type in 0i32..12, cells in prop::collection::vec("[a-z]{1,3}", 0..3), frozen: bool, since: u64)
            -> later::TabletControl {
            later::TabletControl { tablet_type, cells, frozen, since }
        }
    }
    prop_compose! {
        fn shard()(
            primary_alias in prop::option::of(alias()),
            tablet_controls in prop::collection::vec(control(), 0..4),
            is_primary_serving: bool,
            witness in prop::option::of(alias()),
            color: u32,
        ) -> later::Shard {
            later::Shard { primary_alias, tablet_controls, is_primary_serving, witness, color }
        }
    }
    prop_compose! {
        fn node()(tablet_alias in prop::option::of(alias()), weight: i64) -> later::Node {
            later::Node { tablet_alias, weight }
        }
    }
    prop_compose! {
        fn rule()(name in "[a-z]{0,3}", ratio in 0.0..1.0, author in "[a-z]{0,3}") -> later::Rule {
            later::Rule { name, ratio, author }
        }
    }

    /// Reads a later release's bytes with our types, changes them, and writes them back over the original.
    fn through_our_hands<T: Message + Default>(name: &str, original: &[u8], change: impl FnOnce(&mut T)) -> Vec<u8> {
        let mut ours = T::decode(original).unwrap();
        change(&mut ours);
        keep_unknown(name, original, &ours.encode_to_vec()).unwrap()
    }

    proptest! {
        #[test]
        fn a_shard_of_a_later_release_survives_a_change(later in shard(), uid in 0u32..9, frozen: bool) {
            let bytes = through_our_hands("topodata.Shard", &later.encode_to_vec(), |ours: &mut topodata::Shard| {
                ours.is_primary_serving = !ours.is_primary_serving;
                if let Some(alias) = &mut ours.primary_alias {
                    alias.uid = uid;
                }
                if let Some(control) = ours.tablet_controls.first_mut() {
                    control.frozen = frozen;
                }
            });
            let mut expected = later;
            expected.is_primary_serving = !expected.is_primary_serving;
            if let Some(alias) = &mut expected.primary_alias {
                alias.uid = uid;
            }
            // Which of two equal elements was changed cannot be told apart, so only distinct ones are compared as a whole.
            let known = |control: &later::TabletControl| (control.tablet_type, control.cells.clone(), control.frozen);
            let distinct = expected.tablet_controls.iter().map(known).collect::<std::collections::BTreeSet<_>>().len();
            let all = expected.tablet_controls.len();
            if let Some(control) = expected.tablet_controls.first_mut() {
                control.frozen = frozen;
            }
            let after = expected.tablet_controls.iter().map(known).collect::<std::collections::BTreeSet<_>>().len();
            let found = later::Shard::decode(bytes.as_slice()).unwrap();
            if distinct == all && after == all {
                prop_assert_eq!(found, expected);
            } else {
                prop_assert_eq!((found.witness, found.color, found.primary_alias), (expected.witness, expected.color, expected.primary_alias));
            }
        }

        #[test]
        fn bytes_that_nobody_changed_stay_the_same(later in shard()) {
            let original = later.encode_to_vec();
            prop_assert_eq!(through_our_hands("topodata.Shard", &original, |_: &mut topodata::Shard| {}), original);
        }

        #[test]
        fn a_removed_element_takes_only_its_own_fields_along(nodes in prop::collection::vec(node(), 1..5), gone in 0usize..5) {
            let gone = gone % nodes.len();
            let original = later::ShardReplication { nodes: nodes.clone() }.encode_to_vec();
            let bytes = through_our_hands("topodata.ShardReplication", &original, |ours: &mut topodata::ShardReplication| {
                ours.nodes.remove(gone);
            });
            let known = |node: &later::Node| node.tablet_alias.as_ref().map(|alias| (alias.cell.clone(), alias.uid));
            let twins = nodes.iter().filter(|node| known(node) == known(&nodes[gone])).count();
            let mut expected = nodes;
            expected.remove(gone);
            let found = later::ShardReplication::decode(bytes.as_slice()).unwrap().nodes;
            prop_assert_eq!(found.len(), expected.len());
            if twins == 1 {
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn the_values_of_a_map_keep_their_fields(rules in prop::collection::btree_map("[a-z]{1,2}", rule(), 0..4)) {
            let config = later::ThrottlerConfig { enabled: false, throttled_apps: rules };
            let mut later = later::Keyspace { durability_policy: "none".into(), throttler_config: Some(config) };
            let bytes = through_our_hands("topodata.Keyspace", &later.encode_to_vec(), |ours: &mut topodata::Keyspace| {
                ours.durability_policy = "semi_sync".into();
                for rule in ours.throttler_config.iter_mut().flat_map(|config| config.throttled_apps.values_mut()) {
                    rule.ratio = 0.25;
                }
                if let Some(config) = &mut ours.throttler_config {
                    config.throttled_apps.insert("new".into(), Default::default());
                }
            });
            later.durability_policy = "semi_sync".into();
            if let Some(config) = &mut later.throttler_config {
                config.throttled_apps.values_mut().for_each(|rule| rule.ratio = 0.25);
                config.throttled_apps.insert("new".into(), Default::default());
            }
            prop_assert_eq!(later::Keyspace::decode(bytes.as_slice()).unwrap(), later);
        }

        #[test]
        fn no_bytes_make_it_panic(original: Vec<u8>, new: Vec<u8>) {
            let _ = keep_unknown("topodata.Shard", &original, &new);
        }
    }

    #[test]
    fn what_was_taken_away_on_purpose_does_not_come_back() {
        let later = later::Shard {
            primary_alias: Some(later::Alias { rack: vec!["r1".into()], ..Default::default() }),
            color: 7,
            ..Default::default()
        };
        let bytes =
            through_our_hands("topodata.Shard", &later.encode_to_vec(), |ours: &mut topodata::Shard| ours.primary_alias = None);
        let found = later::Shard::decode(bytes.as_slice()).unwrap();
        assert_eq!((found.primary_alias, found.color), (None, 7));
    }

    #[test]
    fn an_unknown_group_is_kept_whole() {
        // Field 50 as a group that holds a string and another group; then is_primary_serving.
        let original = [&[0x93, 0x03, 0x0a, 0x01, 0x94, 0x13, 0x14, 0x94, 0x03][..], &[0x38, 0x01]].concat();
        let bytes = through_our_hands("topodata.Shard", &original, |ours: &mut topodata::Shard| ours.is_primary_serving = false);
        assert_eq!(bytes, original[..9]);
    }

    #[test]
    fn every_record_is_known_by_its_name() {
        let names: BTreeMap<_, _> = super::MESSAGES.iter().map(|(name, fields)| (name.as_str(), fields.len())).collect();
        for (name, fields) in
            [(".topodata.Tablet", 15), (".topodata.Shard", 7), (".topodata.Shard.TabletControl", 5), (".vttime.Time", 2)]
        {
            assert_eq!(names.get(name), Some(&fields), "{name}");
        }
    }
}
