//! Who sent it, and when: a keyed hash over the time and the body.

use ring::hmac;

use crate::secret::Secret;

/// The header that bears the signature.
pub const SIGNATURE: &str = "Vtelector-Signature";
/// The header that bears the number of the event.
pub const SEQUENCE: &str = "Vtelector-Event-Sequence";
/// The header that bears the name by which an event that comes twice is known again.
pub const ID: &str = "Vtelector-Event-Id";

/// The value of [`SIGNATURE`]: HMAC-SHA256 over the time in seconds since 1970, a dot and the body.
pub fn signature(secret: &Secret, at_s: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{at_s}.").as_bytes());
    context.update(body);
    format!("t={at_s},v1={}", hex(context.sign().as_ref()))
}

/// Two digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
