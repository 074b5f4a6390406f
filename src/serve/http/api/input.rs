//! What a request says, as the message that the call takes. Pure.

use prost::Message;
use prost_reflect::{Cardinality, DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};
use tonic::Code;

use super::table::Route;
use crate::serve::calls::Refusal;

/// The message of names in the path and the query.
pub fn of_query(
    route: &Route,
    schema: &DescriptorPool,
    path: &[(String, String)],
    query: Option<&str>,
) -> Result<Vec<u8>, Refusal> {
    let kind = request(route, schema)?;
    let mut fields = Map::new();
    for (name, text) in path.iter().cloned().chain(pairs(query)?) {
        let known = kind.get_field_by_name(&name).filter(is_parameter);
        let Some(field) = known else { return Err(unknown(&name, &kind, path)) };
        if fields.insert(name.clone(), value(&field, &text)?).is_some() {
            return Err(Refusal::invalid(format!("{name} is there twice: give it once")));
        }
    }
    encoded(kind, Value::Object(fields))
}

/// The message of a body. A command takes nothing from its query.
pub fn of_body(route: &Route, schema: &DescriptorPool, query: Option<&str>, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Refusal::invalid("a command takes nothing from its query: put it into the body"));
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("the body is no JSON: {error}")))?;
    if !value.is_object() {
        return Err(Refusal::invalid(format!("the body is no JSON object with the fields of {}", route.request)));
    }
    encoded(request(route, schema)?, value)
}

fn request(route: &Route, schema: &DescriptorPool) -> Result<MessageDescriptor, Refusal> {
    let missing = || Refusal::new(Code::Internal, format!("{} is not described", route.request));
    schema.get_message_by_name(route.request).ok_or_else(missing)
}

fn encoded(kind: MessageDescriptor, value: Value) -> Result<Vec<u8>, Refusal> {
    let message = DynamicMessage::deserialize_with_options(kind, value, &DeserializeOptions::new());
    Ok(message.map_err(|error| Refusal::invalid(format!("the request cannot be meant: {error}")))?.encode_to_vec())
}

/// Whether a field can stand in a query: one plain value.
pub fn is_parameter(field: &FieldDescriptor) -> bool {
    field.cardinality() != Cardinality::Repeated && !matches!(field.kind(), Kind::Message(_) | Kind::Bytes)
}

fn value(field: &FieldDescriptor, text: &str) -> Result<Value, Refusal> {
    let name = field.name();
    let wrong = |wanted: &str| Refusal::invalid(format!("{name}: {text:?} is not {wanted}"));
    Ok(match field.kind() {
        Kind::Bool => match text {
            "true" | "1" => true.into(),
            "false" | "0" => false.into(),
            _ => return Err(wrong("true or false")),
        },
        Kind::Uint32 | Kind::Fixed32 => text.parse::<u32>().map_err(|_| wrong("a number from 0 to 4294967295"))?.into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse::<i32>().map_err(|_| wrong("a number"))?.into(),
        Kind::Double | Kind::Float => text.parse::<f64>().map_err(|_| wrong("a number"))?.into(),
        // Texts, names of enums, and numbers of 64 bits, which JSON has as texts.
        _ => text.into(),
    })
}

fn unknown(name: &str, kind: &MessageDescriptor, path: &[(String, String)]) -> Refusal {
    let of_path = |field: &FieldDescriptor| path.iter().any(|(name, _)| name == field.name());
    let known: Vec<String> =
        kind.fields().filter(|field| is_parameter(field) && !of_path(field)).map(|field| field.name().to_owned()).collect();
    let shown: String = name.chars().take(128).collect();
    match known.as_slice() {
        [] => Refusal::invalid(format!("{shown:?} is no parameter here: there are none")),
        known => Refusal::invalid(format!("{shown:?} is no parameter here: there are {}", known.join(", "))),
    }
}

/// Names and values of a query.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Refusal> {
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((plain(name)?, plain(value)?))
        })
        .collect()
}

/// A part of a query without its escapes.
fn plain(text: &str) -> Result<String, Refusal> {
    let wrong = || Refusal::invalid(format!("the query cannot be read: {:?}", text.chars().take(128).collect::<String>()));
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                let (Some(high), Some(low)) = (high, low) else { return Err(wrong()) };
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(plain).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pb, serve::http::api::table::ROUTES};

    fn schema() -> DescriptorPool {
        DescriptorPool::decode(pb::DESCRIPTORS).unwrap()
    }

    fn route(name: &str) -> &'static Route {
        ROUTES.iter().find(|route| route.name == name).unwrap()
    }

    #[test]
    fn path_and_query_become_the_request() {
        let path = [("keyspace".to_owned(), "commerce".to_owned()), ("shard".to_owned(), "-80".to_owned())];
        let bytes = of_query(route("Explain"), &schema(), &path, Some("foretell=true&limit=7")).unwrap();
        let asked = pb::vtelector::ExplainRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!((asked.keyspace.as_str(), asked.shard.as_str(), asked.foretell, asked.limit), ("commerce", "-80", true, 7));
        let bytes = of_query(route("Shards"), &schema(), &[], Some("keyspace=a%2Fb+c&")).unwrap();
        assert_eq!(pb::vtelector::ShardsRequest::decode(bytes.as_slice()).unwrap().keyspace, "a/b c");
    }

    #[test]
    fn what_a_query_cannot_mean_is_refused_with_the_names_that_can() {
        for (query, words) in [
            ("keyspaces=a", "there are keyspace, shard, only_mine"),
            ("only_mine=yes", "only_mine: \"yes\" is not true or false"),
            ("keyspace=a&keyspace=b", "keyspace is there twice"),
            ("keyspace=%zz", "cannot be read"),
            ("keyspace=%ff", "cannot be read"),
            ("keyspace=%f", "cannot be read"),
        ] {
            let refusal = of_query(route("Shards"), &schema(), &[], Some(query)).unwrap_err();
            assert!(refusal.message.contains(words), "{query}: {refusal}");
        }
        let refusal = of_query(route("History"), &schema(), &[], Some("limit=-1")).unwrap_err();
        assert!(refusal.message.contains("limit"), "{refusal}");
    }

    #[test]
    fn what_a_body_cannot_mean_is_refused() {
        for (body, words) in [
            ("", "no JSON"),
            ("{", "no JSON"),
            ("[]", "no JSON object"),
            ("\"x\"", "no JSON object"),
            ("{\"scopes\": \"\"}", "scopes"),
            ("{\"scope\": 7}", "cannot be meant"),
            ("{\"duration\": \"2h\"}", "cannot be meant"),
        ] {
            let refusal = of_body(route("BeginMaintenance"), &schema(), None, body.as_bytes()).unwrap_err();
            assert!(refusal.message.contains(words), "{body}: {refusal}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(of_body(route("BeginMaintenance"), &schema(), None, deep.as_bytes()).is_err());
        assert!(of_body(route("BeginMaintenance"), &schema(), Some("scope=x"), b"{}").unwrap_err().message.contains("body"));
    }
}
