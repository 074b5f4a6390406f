//! Evidence in, the candidate out, with every rejected alternative and its reason (pure).

/// Nobody can be elected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nobody can be elected")]
pub struct NoCandidate {}

impl NoCandidate {
    /// The gRPC code for the caller.
    pub fn code(&self) -> tonic::Code {
        tonic::Code::FailedPrecondition
    }
}
