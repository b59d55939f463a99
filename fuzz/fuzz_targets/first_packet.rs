//! A connection's first packet: decoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::FirstPacket;

fuzz_target!(|packet: &[u8]| {
    if let Ok(FirstPacket::Startup(startup)) = FirstPacket::decode(packet) {
        assert_eq!(startup.version.major, 3);
        // What was read can't be more than what was sent.
        let sizes = startup
            .parameters
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let read: usize = sizes.sum();
        assert!(read <= packet.len());
    }
});
