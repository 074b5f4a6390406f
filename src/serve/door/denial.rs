//! Why somebody is not let in, or may not do what was asked; the same sentence at every face.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tonic::{Code, Status};

/// Why not. The sentences say what to do, and nothing of what would have been let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nobody was proven, or what was given proves nobody.
    #[error("{sentence}")]
    Unproven {
        /// What to do.
        sentence: String,
        /// How a browser or another client may ask for a proof (`WWW-Authenticate`); empty on gRPC.
        challenge: &'static str,
    },
    /// The caller is known, or need not be, and may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// Too much at the same time, or in too short a time.
    #[error("{0}")]
    TooMuch(String),
}

impl Denial {
    /// Its name in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unproven { .. } => "unproven",
            Self::Forbidden(_) => "forbidden",
            Self::TooMuch(_) => "too_many",
        }
    }
}

impl From<Denial> for Status {
    fn from(denial: Denial) -> Self {
        let code = match denial {
            Denial::Unproven { .. } => Code::Unauthenticated,
            Denial::Forbidden(_) => Code::PermissionDenied,
            Denial::TooMuch(_) => Code::ResourceExhausted,
        };
        Status::new(code, denial.to_string())
    }
}

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let status = match self {
            Denial::Unproven { .. } => StatusCode::UNAUTHORIZED,
            Denial::Forbidden(_) => StatusCode::FORBIDDEN,
            Denial::TooMuch(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        let mut response = (status, format!("{self}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Denial::Unproven { challenge, .. } => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
            Denial::TooMuch(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Denial::Forbidden(_) => {}
        }
        response
    }
}
