//! What a certificate says of whom it is for and how long it holds. Whether it is to be believed is not judged here: whoever gets this far
//! has a certificate that the TLS library has verified, or one of our own files.

use std::{fmt, fmt::Write as _};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, which holds the version.
const VERSION: u8 = 0xa0;
/// UTF-16 in an attribute; every other kind of text is read as UTF-8.
const BMP_STRING: u8 = 0x1e;

/// Names of attributes, by their object ids, as RFC 2253 and Go's libraries write them.
const ATTRIBUTES: [(&[u8], &str); 10] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 5], "SERIALNUMBER"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 17], "POSTALCODE"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];
const COMMON_NAME: &str = "CN";

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// As RFC 2253 writes it, the last part first: what Vitess looks for substrings in.
    pub whole: String,
    /// The common name; empty where there is none.
    pub common_name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.common_name.is_empty() { &self.whole } else { &self.common_name })
    }
}

/// Bytes of DER that were not read yet.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // Four bytes of length are more than any certificate has.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }
}

/// The part of a certificate from its validity on.
fn validity_and_subject(certificate: &[u8]) -> Option<Der<'_>> {
    let mut inside = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    let mut version = inside;
    if version.next()?.0 == VERSION {
        inside = version;
    }
    inside.expect(INTEGER)?;
    inside.expect(SEQUENCE)?;
    inside.expect(SEQUENCE)?;
    Some(inside)
}

/// Whom a certificate (DER) is for; `None` = it is no certificate.
pub fn subject(certificate: &[u8]) -> Option<Subject> {
    let mut inside = validity_and_subject(certificate)?;
    inside.expect(SEQUENCE)?;
    let mut names = Der(inside.expect(SEQUENCE)?);
    let (mut parts, mut subject) = (Vec::new(), Subject::default());
    while !names.0.is_empty() {
        let mut attributes = Der(names.expect(SET)?);
        let mut words = Vec::new();
        while !attributes.0.is_empty() {
            let mut attribute = Der(attributes.expect(SEQUENCE)?);
            let id = attribute.expect(OBJECT_ID)?;
            let (kind, value) = attribute.next()?;
            let (name, value) = (attribute_name(id), text(kind, value));
            if name == COMMON_NAME {
                subject.common_name.clone_from(&value);
            }
            words.push(format!("{name}={}", escaped(&value)));
        }
        parts.push(words.join("+"));
    }
    parts.reverse();
    subject.whole = parts.join(",");
    Some(subject)
}

fn attribute_name(id: &[u8]) -> String {
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == id).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| {
        id.iter().fold("OID.".to_owned(), |mut words, byte| {
            // Writing to a string does not fail.
            let _ = write!(words, "{byte:02x}");
            words
        })
    })
}

fn text(kind: u8, value: &[u8]) -> String {
    match kind {
        BMP_STRING => {
            let units: Vec<u16> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&units)
        }
        _ => String::from_utf8_lossy(value).into_owned(),
    }
}

/// Nobody's name makes parts that the certificate does not have.
fn escaped(value: &str) -> String {
    let mut words = String::with_capacity(value.len());
    for (at, char) in value.char_indices() {
        let is_edge = (char == ' ' && (at == 0 || at + 1 == value.len())) || (char == '#' && at == 0);
        if is_edge || matches!(char, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            words.push('\\');
        }
        words.push(char);
    }
    words
}

/// Until when the first certificate of a PEM file holds, in seconds since 1970; `None` = it has none.
pub fn not_after_s(pem: &[u8]) -> Option<i64> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let mut validity = Der(validity_and_subject(&certificate)?.expect(SEQUENCE)?);
    validity.next()?;
    let (kind, time) = validity.next()?;
    seconds(kind, std::str::from_utf8(time).ok()?)
}

fn seconds(kind: u8, time: &str) -> Option<i64> {
    let (year, rest) = match kind {
        // Two digits: RFC 5280 has them mean 1950 to 2049.
        UTC_TIME => {
            let (year, rest) = time.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = time.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let digits = rest.strip_suffix('Z').filter(|digits| digits.len() == 10 && digits.is_ascii())?;
    let part = |at: usize| digits.get(at..at + 2)?.parse::<i8>().ok();
    let civil = jiff::civil::DateTime::new(year, part(0)?, part(2)?, part(4)?, part(6)?, part(8)?, 0).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn signed(params: CertificateParams) -> rcgen::Certificate {
        params.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_subject_is_written_as_vitess_reads_it() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, "NL"),
            (DnType::OrganizationName, "Tired, Inc."),
            (DnType::OrganizationalUnitName, "dba"),
            (DnType::CommonName, "anna"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let found = subject(signed(params).der()).unwrap();
        assert_eq!(found.whole, r"CN=anna,OU=dba,O=Tired\, Inc.,C=NL");
        assert_eq!((found.common_name.as_str(), found.to_string().as_str()), ("anna", "anna"));
    }

    #[test]
    fn the_end_of_a_certificate_is_found_on_both_sides_of_2050() {
        for (year, seconds) in [(2030, 1_893_456_000), (2060, 2_840_140_800)] {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.not_after = date_time_ymd(year, 1, 1);
            assert_eq!(not_after_s(signed(params).pem().as_bytes()), Some(seconds));
        }
        assert_eq!(not_after_s(b"no certificate"), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_none() {
        let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let whole = signed(params).der().to_vec();
        for end in 0..whole.len() {
            assert_eq!(subject(&whole[..end]), None, "{end}");
        }
        // Every byte may be another one: an answer or none, and no panic.
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            let _ = (subject(&changed), validity_and_subject(&changed));
        }
    }
}
