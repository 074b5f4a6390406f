//! What the pages load: from here alone, under names that change with the content.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use ring::digest;

const CSS: &str = include_str!("templates/page.css");
const SCRIPT: &str = include_str!("templates/page.js");
const ICON: &str = include_str!("templates/icon.svg");

/// The addresses of the assets.
#[derive(Debug)]
pub struct Assets {
    pub css: String,
    pub script: String,
    pub icon: String,
}

/// As this binary has them.
pub static ASSETS: LazyLock<Assets> =
    LazyLock::new(|| Assets { css: named(CSS, "css"), script: named(SCRIPT, "js"), icon: named(ICON, "svg") });

fn named(content: &str, ending: &str) -> String {
    let digest = digest::digest(&digest::SHA256, content.as_bytes());
    let hash: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("/page/{hash}.{ending}")
}

/// An asset by its name. Another version's name is not found, so that no page is shown with a style that is not its own.
pub async fn asset(Path(file): Path<String>) -> Response {
    let path = format!("/page/{file}");
    let (kind, content) = match &*ASSETS {
        assets if path == assets.css => ("text/css; charset=utf-8", CSS),
        assets if path == assets.script => ("text/javascript; charset=utf-8", SCRIPT),
        assets if path == assets.icon => ("image/svg+xml", ICON),
        _ => return (StatusCode::NOT_FOUND, "no such file; reload the page\n").into_response(),
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, content).into_response()
}
