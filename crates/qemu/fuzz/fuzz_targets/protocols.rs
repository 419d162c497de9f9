//! The first byte chooses the protocol; the rest is what the other side says.
#![no_main]

use std::io::{self, Cursor, Read, Write};
use std::time::Duration;

use kiln_qemu::{Channel, Limits, Stream, agent, nbd, qmp};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

struct Said(Cursor<Vec<u8>>);

impl Read for Said {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Said {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Said {
    fn limit_blocking(&mut self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, said)) = bytes.split_first() else { return };
    let channel = Channel::new(Said(Cursor::new(said.to_vec())), "it");
    let limits = Limits::default();
    match choice % 3 {
        0 => {
            let Ok(mut client) = qmp::Client::connect(channel, limits) else { return };
            let _ = client.execute("query-status", json!({}));
            let _ = client.next_event(Duration::from_millis(1));
        }
        1 => {
            let _ = agent::Agent::connect(channel, limits).and_then(|mut agent| agent.info());
        }
        _ => {
            let contexts = [nbd::BASE_ALLOCATION];
            let Ok(mut client) = nbd::Client::connect(channel, limits, "e", &contexts) else { return };
            let end = client.byte_len();
            if let Ok(spans) = client.block_status(0, 0, u64::MAX) {
                let mut at = 0;
                for span in spans {
                    assert!(span.start >= at && span.len > 0 && span.end() <= end);
                    at = span.end();
                }
            }
            let _ = client.read(0, &mut [0; 4096]);
        }
    }
});
