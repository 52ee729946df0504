//! Pod certificate credentials that reload, for rustls mTLS.
