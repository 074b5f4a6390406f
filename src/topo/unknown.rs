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
struct Field<'a> {
    number: u32,
    /// Key and value, as they were.
    whole: &'a [u8],
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
fn split(bytes: &[u8]) -> Option<Vec<Field<'_>>> {
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
