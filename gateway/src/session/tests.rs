//! Scripted sessions over duplex streams: these files play the client and the server.

mod agreement;
mod bulk;
mod copy;
mod ends;
mod judging;
mod limits;
mod masking;
mod names;
mod recording;
mod stage;
