//! A client's way from its first byte to a StartupMessage.
