//! Look-ups of listed names by the host's resolver, one at a time of each name.
//!
//! A look-up blocks a thread for as long as the resolver takes, whoever still waits for it: without a
//! limit, an agent that asks on and on has as many of them as there are threads.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

type Found = Result<HashSet<IpAddr>, Arc<io::Error>>;

/// A name's last look-up: when it began, and what it found.
type Last = Arc<tokio::sync::Mutex<Option<(Instant, Found)>>>;

/// See the module. Only for names of the configuration, which are remembered.
#[derive(Default)]
pub(super) struct LookUps(Mutex<HashMap<String, Last>>);

impl LookUps {
    /// A name's addresses as they are now: those of a look-up that begins after this is asked.
    pub(super) async fn resolve(&self, name: &str) -> Found {
        let asked = Instant::now();
        let last = self.of(name);
        let name = name.to_owned();
        // Who asks may give up; the look-up ends nevertheless, and only then the next may begin.
        let looking = tokio::spawn(async move {
            let mut last = last.lock_owned().await;
            if let Some((began, found)) = &*last
                && *began >= asked
            {
                return found.clone();
            }
            let began = Instant::now();
            let found = look_up(&name).await.map_err(Arc::new);
            *last = Some((began, found.clone()));
            found
        });
        looking
            .await
            .unwrap_or_else(|ended| Err(Arc::new(io::Error::other(ended))))
    }

    fn of(&self, name: &str) -> Last {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(name.to_owned()).or_default())
    }
}

async fn look_up(name: &str) -> io::Result<HashSet<IpAddr>> {
    let found = tokio::net::lookup_host((name, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_a_look_up_that_began_after_they_asked() {
        let lookups = LookUps::default();
        let mut under_way = lookups.of("localhost").lock_owned().await;
        let elsewhere: HashSet<IpAddr> = ["192.0.2.1".parse().unwrap()].into();
        let found = elsewhere.clone();
        let both =
            async { tokio::join!(lookups.resolve("localhost"), lookups.resolve("localhost")) };
        let end = async move { *under_way = Some((Instant::now(), Ok(found))) };
        let ((first, second), ()) = tokio::join!(both, end);
        assert_eq!(first.unwrap(), elsewhere);
        assert_eq!(second.unwrap(), elsewhere);
        // Who asks now is told what is so now.
        let now = lookups.resolve("localhost").await.unwrap();
        assert!(now.iter().all(IpAddr::is_loopback) && !now.is_empty());
    }
}
