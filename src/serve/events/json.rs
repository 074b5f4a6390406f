//! Events as JSON, in the words of their messages.

use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions, prost::Message};

use crate::pb::vtelector::Event;

/// What the JSON of an event cannot be made for; it would be a fault of this program.
#[derive(Debug, Clone, thiserror::Error)]
#[error("event {sequence} has no JSON form: {why}; please report it")]
pub struct JsonError {
    sequence: u64,
    why: String,
}

/// Prints events.
#[derive(Debug, Clone)]
pub struct Printer {
    schema: DescriptorPool,
}

impl Printer {
    /// A printer with these descriptors.
    pub fn new(schema: DescriptorPool) -> Self {
        Self { schema }
    }

    /// The event as the program's own commands print it: names as in the message, defaults left in.
    pub fn value(&self, event: &Event) -> Result<serde_json::Value, JsonError> {
        let wrong = |why: String| JsonError { sequence: event.sequence, why };
        let descriptor = self.schema.get_message_by_name("vtelector.Event");
        let descriptor = descriptor.ok_or_else(|| wrong("its description is missing".to_owned()))?;
        let message =
            DynamicMessage::decode(descriptor, event.encode_to_vec().as_slice()).map_err(|error| wrong(error.to_string()))?;
        let names = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
        message.serialize_with_options(serde_json::value::Serializer, &names).map_err(|error| wrong(error.to_string()))
    }
}
