//! `GetTopologyPath`: what stands under a path of the topology, in words.

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions, text_format::FormatOptions};
use tonic::{Code, Request};

use super::{Context, input, refusal::Refusal};
use crate::{
    pb::vtctldata::{GetTopologyPathRequest, GetTopologyPathResponse, TopologyCell},
    topo::TopoPath,
};

/// The name under which the global topology stands beside the cells.
const GLOBAL: &str = "global";

/// The children of a folder, or a record as JSON or text.
pub async fn get_topology_path(
    context: &Context,
    request: Request<GetTopologyPathRequest>,
) -> Result<GetTopologyPathResponse, Refusal> {
    let request = request.into_inner();
    let path = request.path.as_str();
    if path == "/" {
        let mut children = vec![GLOBAL.to_owned()];
        children.extend(context.topo.cells().await?);
        let cell = TopologyCell { path: path.to_owned(), children, ..TopologyCell::default() };
        return Ok(GetTopologyPathResponse { cell: Some(cell) });
    }
    let cell_name = path.strip_prefix('/').and_then(|rest| rest.split('/').next()).unwrap_or_default();
    if cell_name.is_empty() {
        return Err(Refusal::invalid(format!(
            "path {path:?} is no path of the topology; write it as /CELL/..., such as /global/keyspaces"
        )));
    }
    if cell_name != GLOBAL {
        input::cell("path", cell_name)?;
    }
    if request.version < 0 {
        return Err(Refusal::invalid(format!("version {} is negative; give a revision of etcd, or 0 for now", request.version)));
    }
    let mut cell = TopologyCell { name: last(path).to_owned(), path: path.to_owned(), ..TopologyCell::default() };
    match context.topo.path(path, request.version).await? {
        TopoPath::Folder(children) => cell.children = children,
        TopoPath::File { value, version } => {
            cell.data = words(&context.schema, path, &value, request.as_json)?;
            cell.version = if request.version == 0 { version } else { request.version };
        }
    }
    Ok(GetTopologyPathResponse { cell: Some(cell) })
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The record type that a file's name stands for. Vitess writes these and others whose messages we do not speak.
fn record_type(schema: &DescriptorPool, name: &str) -> Option<MessageDescriptor> {
    let known = ["CellInfo", "CellsAlias", "Keyspace", "Shard", "ShardReplication", "SrvKeyspace", "Tablet"];
    known.contains(&name).then(|| schema.get_message_by_name(&format!("topodata.{name}"))).flatten()
}

fn words(schema: &DescriptorPool, path: &str, value: &[u8], as_json: bool) -> Result<String, Refusal> {
    let garbage = |reason: String| {
        Refusal::new(Code::DataLoss, format!("{path} holds {} bytes that cannot be shown: {reason}", value.len()))
    };
    let Some(kind) = record_type(schema, last(path)) else {
        return match std::str::from_utf8(value) {
            Ok(text) if !as_json => Ok(text.to_owned()),
            _ => Err(Refusal::new(Code::Unimplemented, format!("{path} is no record that vtelector knows; ask vtctld for it"))),
        };
    };
    let record = DynamicMessage::decode(kind, value).map_err(|e| garbage(e.to_string()))?;
    if !as_json {
        // One line with spaces between the fields, as Vitess prints it; line ends within strings are escaped.
        let lines = record.to_text_format_with_options(&FormatOptions::new().pretty(true));
        return Ok(lines.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    }
    // Vitess keeps the proto's names and order, and indents by two spaces.
    let mut json = Vec::new();
    let names = SerializeOptions::new().use_proto_field_name(true);
    record.serialize_with_options(&mut serde_json::Serializer::pretty(&mut json), &names).map_err(|e| garbage(e.to_string()))?;
    String::from_utf8(json).map_err(|e| garbage(e.to_string()))
}
