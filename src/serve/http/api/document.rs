//! The OpenAPI document of the table: its schemas and sentences come from the proto files. Pure.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    ROOT, events, input,
    table::{ROUTES, Route, Verb},
};
use crate::serve::door::Role;

/// A status, why it comes, and the name and meaning of a header that comes with it.
type Refused = (&'static str, &'static str, Option<(&'static str, &'static str)>);

/// What else than the answer may come.
const REFUSALS: [Refused; 12] = [
    ("400", "The request cannot be meant.", None),
    (
        "401",
        "Nobody was proven, or what was given proves nobody.",
        Some(("WWW-Authenticate", "How a proof may be given; absent where only a client certificate is one.")),
    ),
    ("403", "The caller may not do this, or a page of another site asks for it.", None),
    ("404", "What it is about does not exist.", None),
    ("408", "The body did not come in time.", None),
    ("409", "It could be done, but not in the present state of the world.", None),
    ("413", "The body is too large.", None),
    ("415", "The body of a command is not JSON.", None),
    (
        "429",
        "Too much at the same time, or in too short a time.",
        Some(("Retry-After", "Seconds; absent where nobody knows them.")),
    ),
    ("500", "It failed here.", None),
    ("503", "It cannot be done now: what it needs does not answer, or this elector stops.", None),
    ("504", "There was no answer in time. A command may still take effect.", None),
];

/// Describes every route of the table, and the stream of events.
pub fn document(schema: &DescriptorPool) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::from([("Error".to_owned(), error())]);
    for route in ROUTES {
        let operation = operation(route, schema, &mut schemas);
        paths.entry(format!("{ROOT}{}", route.path)).or_default().insert(route.method.name().to_ascii_lowercase(), operation);
    }
    let stream = self::stream(schema, &mut schemas);
    paths.entry(format!("{ROOT}{}", events::PATH)).or_default().insert("get".to_owned(), stream);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vtelector",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an elector sees, decides and does, and what persons may tell it. Each path is a call of the gRPC service \
                vtelector.Elector; messages are JSON as protobuf maps them, under the names in the proto file, with numbers of 64 bits as \
                texts. Fields that are empty, zero or false are there as well. Whatever is refused below this path has the shape of Error, \
                also a path that there is not (404) and a method that a path does not take (405, with Allow). Plain text are only the \
                refusals of what is not read at all: a connection too many (503), and headers that are too large or no HTTP (431, 400).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": REFUSALS.iter().map(refusal).collect::<Map<_, _>>(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A bearer token, where tokens are set up."},
                "password": {"type": "http", "scheme": "basic", "description": "A static user, where such are set up."},
            },
        },
        "security": [{}, {"token": []}, {"password": []}],
    })
}

fn refusal((status, why, header): &Refused) -> (String, Value) {
    let mut refusal = json!({"description": why, "content": {"application/json": {"schema": reference("Error")}}});
    if let (Some((name, said)), Some(refusal)) = (header, refusal.as_object_mut()) {
        refusal.insert("headers".to_owned(), json!({*name: {"description": said, "schema": {"type": "string"}}}));
    }
    ((*status).to_owned(), refusal)
}

/// What may be answered: this, and every refusal. Only a command's body has a type that can be wrong.
fn responses(answer: Value, method: Verb) -> Map<String, Value> {
    let refusals = REFUSALS.iter().map(|(status, ..)| *status).filter(|status| method == Verb::Post || *status != "415");
    let refusals = refusals.map(|status| (status.to_owned(), json!({"$ref": format!("#/components/responses/{status}")})));
    std::iter::once(("200".to_owned(), answer)).chain(refusals).collect()
}

/// What the proto file says of a call.
fn said_of(call: &str, schema: &DescriptorPool) -> String {
    let service = schema.get_service_by_name("vtelector.Elector");
    let call = service.and_then(|service| service.methods().find(|method| method.name() == call));
    call.map(|call| comment(&call.parent_file(), call.path())).unwrap_or_default()
}

fn operation(route: &Route, schema: &DescriptorPool, schemas: &mut BTreeMap<String, Value>) -> Value {
    let role = match (route.method, route.role) {
        (Verb::Get, _) => "Readers and operators may ask.",
        (Verb::Post, Role::Reader) => "A command: for operators only; with dry_run readers may ask as well.",
        (Verb::Post, Role::Operator) => "A command: for operators only.",
    };
    let said = said_of(route.name, schema);
    let answer = json!({"description": "The answer.", "content": {"application/json": {"schema": reference(route.response)}}});
    let mut operation = json!({
        "operationId": route.name,
        "summary": first_sentence(&said),
        "description": format!("{said} {role}").trim(),
        "responses": responses(answer, route.method),
    });
    if let Some(response) = schema.get_message_by_name(route.response) {
        describe(&response, schemas);
    }
    if let (Some(request), Some(fields)) = (schema.get_message_by_name(route.request), operation.as_object_mut()) {
        match route.method {
            Verb::Get => {
                fields.insert("parameters".to_owned(), parameters(route.path, &request).into());
            }
            Verb::Post => {
                describe(&request, schemas);
                let content = json!({"application/json": {"schema": reference(route.request)}});
                fields.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
            }
        }
    }
    operation
}

/// The one path that is no call with one answer.
fn stream(schema: &DescriptorPool, schemas: &mut BTreeMap<String, Value>) -> Value {
    if let Some(event) = schema.get_message_by_name("vtelector.Event") {
        describe(&event, schemas);
    }
    let request = schema.get_message_by_name("vtelector.WatchEventsRequest");
    let mut parameters = request.map(|request| parameters(events::PATH, &request)).unwrap_or_default();
    for parameter in parameters.iter_mut().filter(|parameter| parameter["name"] == "after_sequence") {
        parameter["description"] =
            "What the log has after this number, and then what happens. 0 = from the oldest on. Absent = what \
            happens from now on."
                .into();
    }
    parameters.push(json!({
        "name": events::LAST_EVENT_ID,
        "in": "header",
        "required": false,
        "description": "The number of the last event that a reader has seen, when it comes back; counts before after_sequence.",
        "schema": {"type": "string", "format": "uint64"},
    }));
    let answer = json!({
        "description": "Server-sent events until the reader leaves: id is the event's number, event what happened (opened, closed, \
            decided, recovered, dropped, other), data the event as JSON. The last one is end, with the reason as text.",
        "content": {"text/event-stream": {"schema": reference("vtelector.Event")}},
    });
    json!({
        "operationId": "WatchEvents",
        "summary": "Streams the events of all electors, from the log",
        "description": "Streams the events of all electors, from the log, each with its number. Readers and operators may ask.",
        "parameters": parameters,
        "responses": responses(answer, Verb::Get),
    })
}

fn parameters(path: &str, request: &MessageDescriptor) -> Vec<Value> {
    let fields = request.fields().filter(input::is_parameter);
    let parameters = fields.map(|field| {
        let in_path = path.contains(&format!("{{{}}}", field.name()));
        json!({
            "name": field.name(),
            "in": if in_path { "path" } else { "query" },
            "required": in_path,
            "description": comment(&field.parent_message().parent_file(), field.path()),
            "schema": kind(&field.kind()),
        })
    });
    parameters.collect()
}

/// Describes a message and all that it is made of.
fn describe(message: &MessageDescriptor, schemas: &mut BTreeMap<String, Value>) {
    if schemas.contains_key(message.full_name()) {
        return;
    }
    // Before its fields are: a message may contain itself.
    schemas.insert(message.full_name().to_owned(), Value::Null);
    let mut properties = Map::new();
    for field in message.fields() {
        let kind = field.kind();
        match map_value(&field).unwrap_or(kind) {
            Kind::Message(part) => describe(&part, schemas),
            Kind::Enum(part) => drop(schemas.entry(part.full_name().to_owned()).or_insert_with(|| enumeration(&part))),
            _ => {}
        }
        let mut property = shape(&field);
        let said = comment(&message.parent_file(), field.path());
        if let (Some(property), false) = (property.as_object_mut(), said.is_empty()) {
            property.insert("description".to_owned(), said.into());
        }
        properties.insert(field.name().to_owned(), property);
    }
    let said = comment(&message.parent_file(), message.path());
    let mut described = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if let (Some(described), false) = (described.as_object_mut(), said.is_empty()) {
        described.insert("description".to_owned(), said.into());
    }
    schemas.insert(message.full_name().to_owned(), described);
}

fn map_value(field: &FieldDescriptor) -> Option<Kind> {
    let Kind::Message(entry) = field.kind() else { return None };
    if !field.is_map() {
        return None;
    }
    Some(entry.map_entry_value_field().kind())
}

fn shape(field: &FieldDescriptor) -> Value {
    match map_value(field) {
        Some(value) => json!({"type": "object", "additionalProperties": kind(&value)}),
        None if field.is_list() => json!({"type": "array", "items": kind(&field.kind())}),
        None => kind(&field.kind()),
    }
}

/// As protobuf maps it to JSON.
fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
        Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "format": "uint32", "minimum": 0}),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64"}),
        Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64"}),
        Kind::Double | Kind::Float => json!({"type": "number"}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Kind::Message(message) => reference(message.full_name()),
        Kind::Enum(of) => reference(of.full_name()),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn enumeration(of: &EnumDescriptor) -> Value {
    let names: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
    let said = of.values().map(|value| (value.name().to_owned(), comment(&of.parent_file(), value.path())));
    let said: Vec<String> = said.filter(|(_, said)| !said.is_empty()).map(|(name, said)| format!("{name}: {said}")).collect();
    let description = [comment(&of.parent_file(), of.path()), said.join(" ")].join(" ").trim().to_owned();
    json!({"type": "string", "enum": names, "description": description})
}

fn error() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was not answered.",
        "required": ["error"],
        "additionalProperties": false,
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "additionalProperties": false,
                "properties": {
                    "code": {"type": "string", "description": "gRPC's name of what kind of mistake or failure it is, such as NOT_FOUND."},
                    "message": {"type": "string", "description": "What is wrong with which thing, and what to do."},
                },
            },
        },
    })
}

/// What the proto file says before the thing at that path, in one line.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let found = info.and_then(|info| info.location.iter().find(|location| location.path == path));
    let words = found.and_then(|location| location.leading_comments.as_deref()).unwrap_or_default();
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn first_sentence(text: &str) -> &str {
    let end = text.find(['.', ':', ';']).unwrap_or(text.len());
    &text[..end]
}
