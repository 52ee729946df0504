//! The Podmint signer.
