//! Cells: the places that keep a topology of their own.

use tonic::Request;

use super::{Context, input, refusal::Refusal};
use crate::pb::vtctldata::{
    AddCellInfoRequest, AddCellInfoResponse, GetCellInfoNamesRequest, GetCellInfoNamesResponse, GetCellInfoRequest,
    GetCellInfoResponse,
};

/// Registers a cell: where its etcd is, and the root there.
pub async fn add_cell_info(context: &Context, request: Request<AddCellInfoRequest>) -> Result<AddCellInfoResponse, Refusal> {
    let request = request.into_inner();
    let name = input::cell("name", &request.name)?;
    let info = request.cell_info.unwrap_or_default();
    if !info.root.starts_with('/') || info.root.trim_matches('/').is_empty() {
        let given = &info.root;
        return Err(Refusal::invalid(format!("cell_info.root {given:?} is no path in etcd; give one such as /vitess/{name}")));
    }
    if info.server_address.is_empty() {
        let message = format!(
            "cell_info.server_address is required: give the cell's etcd as host:port, with commas between several ({name})"
        );
        return Err(Refusal::invalid(message));
    }
    context.topo.create_cell_info(name, &info).await?;
    Ok(AddCellInfoResponse {})
}

/// One cell's record.
pub async fn get_cell_info(context: &Context, request: Request<GetCellInfoRequest>) -> Result<GetCellInfoResponse, Refusal> {
    let request = request.into_inner();
    let info = context.topo.cell_info(input::cell("cell", &request.cell)?).await?;
    Ok(GetCellInfoResponse { cell_info: Some(info) })
}

/// Names of all cells.
pub async fn get_cell_info_names(
    context: &Context,
    _: Request<GetCellInfoNamesRequest>,
) -> Result<GetCellInfoNamesResponse, Refusal> {
    Ok(GetCellInfoNamesResponse { names: context.topo.cells().await? })
}
