//! The OpenAPI document of the table: its schemas and sentences come from the proto files. Pure.

use std::collections::BTreeMap;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::{
    ROOT, input,
    table::{ROUTES, Route, Verb},
};
use crate::serve::door::Role;

/// Describes every route of the table.
pub fn document(schema: &DescriptorPool) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::from([("Error".to_owned(), error())]);
    for route in ROUTES {
        let operation = operation(route, schema, &mut schemas);
        paths.entry(format!("{ROOT}{}", route.path)).or_default().insert(route.method.name().to_ascii_lowercase(), operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vtelector",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What an elector sees, decides and does, and what persons may tell it. Each path is a call of the gRPC service \
                vtelector.Elector; messages are JSON as protobuf maps them, under the names in the proto file, with numbers of 64 bits as \
                texts. Fields that are empty, zero or false are there as well.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A bearer token, where tokens are set up."},
                "password": {"type": "http", "scheme": "basic", "description": "A static user, where such are set up."},
            },
        },
        "security": [{}, {"token": []}, {"password": []}],
    })
}

fn operation(route: &Route, schema: &DescriptorPool, schemas: &mut BTreeMap<String, Value>) -> Value {
    let role = match route.role {
        Role::Reader => "Readers and operators may ask.",
        Role::Operator => "A command: for operators only.",
    };
    let call = schema
        .get_service_by_name("vtelector.Elector")
        .and_then(|service| service.methods().find(|method| method.name() == route.name));
    let said = call.map(|call| comment(&call.parent_file(), call.path())).unwrap_or_default();
    let mut operation = json!({
        "operationId": route.name,
        "summary": first_sentence(&said),
        "description": format!("{said} {role}").trim(),
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": reference(route.response)}}},
            "default": {
                "description": "Why it was not done.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    });
    if let Some(response) = schema.get_message_by_name(route.response) {
        describe(&response, schemas);
    }
    if let (Some(request), Some(fields)) = (schema.get_message_by_name(route.request), operation.as_object_mut()) {
        match route.method {
            Verb::Get => {
                fields.insert("parameters".to_owned(), parameters(route, &request).into());
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

fn parameters(route: &Route, request: &MessageDescriptor) -> Vec<Value> {
    let fields = request.fields().filter(input::is_parameter);
    let parameters = fields.map(|field| {
        let in_path = route.path.contains(&format!("{{{}}}", field.name()));
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
