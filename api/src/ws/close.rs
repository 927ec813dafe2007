//! Why the server ends a socket. What a client should do then stands in the README and in `/asyncapi.json`; a test compares them
//! with this.

use std::ops::RangeInclusive;

/// A code (RFC 6455, section 7.4; those from 4000 on are ours).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// The client closed.
    Normal = 1000,
    GoingAway = 1001,
    Protocol = 1002,
    /// Bytes that are not text.
    Unsupported = 1003,
    NotUtf8 = 1007,
    Policy = 1008,
    TooBig = 1009,
    /// Our fault.
    Internal = 1011,
    /// What is needed is away.
    TryAgainLater = 1013,
    TokenExpired = 4401,
    /// Nothing was heard of the client, and nothing taken.
    Unheard = 4408,
}

impl Code {
    pub const ALL: [Self; 11] = [
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::Unsupported,
        Self::NotUtf8,
        Self::Policy,
        Self::TooBig,
        Self::Internal,
        Self::TryAgainLater,
        Self::TokenExpired,
        Self::Unheard,
    ];
}

/// Codes that a client may close with (RFC 6455, section 7.4.2; 1012 to 1014 are registered since).
const CLIENTS: [RangeInclusive<u16>; 3] = [1000..=1003, 1007..=1014, 3000..=4999];

/// What a close frame says; `None` where that breaks the protocol.
pub fn said(payload: &[u8]) -> Option<Option<u16>> {
    let Some((code, reason)) = payload.split_first_chunk() else { return payload.is_empty().then_some(None) };
    let code = u16::from_be_bytes(*code);
    let is_code = CLIENTS.iter().any(|codes| codes.contains(&code));
    (is_code && std::str::from_utf8(reason).is_ok()).then_some(Some(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_has_no_code_or_one_that_there_is_and_a_reason_that_is_text() {
        assert_eq!(
            (said(b""), said(b"\x03\xe8"), said(b"\x0f\xa1bye")),
            (Some(None), Some(Some(1000)), Some(Some(4001)))
        );
        for broken in [&b"\x03"[..], b"\x03\xec", b"\x03\xed", b"\x03\xee", b"\x00\x00", b"\x13\x88", b"\x03\xe8\xff"] {
            assert_eq!(said(broken), None, "{broken:?}");
        }
    }
}
