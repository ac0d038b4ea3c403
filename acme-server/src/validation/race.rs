//! Tries several addresses of one host, the next one without waiting for the slow one before it, after the manner of
//! RFC 8305.

use std::net::SocketAddr;
use std::time::Duration;

use ca_core::acme::challenge::ValidationFailure;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// When to try what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long an address is waited for before the next one is tried beside it.
    pub stagger: Duration,
    /// After this nothing new is tried; `attempt` itself must end then.
    pub deadline: Instant,
}

/// Runs `attempt` for each address in turn until one result is `enough`; what still runs then is dropped.
///
/// If none is enough, the first address that had any result counts.
///
/// # Errors
/// Why each address that was tried failed, in their order.
pub(super) async fn first<T, F>(
    addresses: &[SocketAddr],
    pace: Pace,
    attempt: impl Fn(SocketAddr) -> F,
    enough: impl Fn(&T) -> bool,
) -> Result<T, Vec<ValidationFailure>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ValidationFailure>> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut ended = Vec::new();
    let mut waiting = addresses.iter().enumerate();
    loop {
        if Instant::now() < pace.deadline
            && let Some((index, address)) = waiting.next()
        {
            let attempt = attempt(*address);
            running.spawn(async move { (index, attempt.await) });
        }
        let next_start = Instant::now() + pace.stagger;
        let more = waiting.len() > 0 && next_start < pace.deadline;
        tokio::select! {
            joined = running.join_next() => match joined {
                Some(Ok((_, Ok(result)))) if enough(&result) => return Ok(result),
                Some(Ok(result)) => ended.push(result),
                // It can't be cancelled while we hold the set, and does not panic; if it did, it had no result.
                Some(Err(_)) => {}
                None => break,
            },
            () = sleep_until(next_start), if more => {}
        }
    }
    ended.sort_by_key(|(index, _)| *index);
    let mut failures = Vec::new();
    for (_, result) in ended {
        match result {
            Ok(result) => return Ok(result),
            Err(failure) => failures.push(failure),
        }
    }
    Err(failures)
}

#[cfg(test)]
mod tests {
    use ca_core::acme::challenge::FailureKind;
    use tokio::time::sleep;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    fn pace(seconds: u64) -> Pace {
        Pace { stagger: Duration::from_millis(500), deadline: Instant::now() + Duration::from_secs(seconds) }
    }

    fn refused(address: SocketAddr) -> ValidationFailure {
        ValidationFailure::new(FailureKind::Connection, address.port().to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_does_not_hold_up_the_next() {
        let started = Instant::now();
        let attempt = |address: SocketAddr| async move {
            if address.port() == 1 {
                sleep(Duration::from_secs(8)).await;
                return Err(refused(address));
            }
            sleep(Duration::from_millis(100)).await;
            Ok(address.port())
        };
        assert_eq!(first(&addresses(2), pace(8), attempt, |_| true).await, Ok(2));
        assert_eq!(started.elapsed().as_millis(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_address_at_once() {
        let started = Instant::now();
        let attempt = |address: SocketAddr| async move {
            if address.port() < 3 { Err(refused(address)) } else { Ok(address.port()) }
        };
        assert_eq!(first(&addresses(3), pace(8), attempt, |_| true).await, Ok(3));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_good_answer_beats_a_quick_useless_one() {
        let attempt = |address: SocketAddr| async move {
            if address.port() == 1 {
                sleep(Duration::from_secs(3)).await;
            }
            Ok(address.port())
        };
        assert_eq!(first(&addresses(3), pace(8), attempt, |port| *port == 1).await, Ok(1));
        assert_eq!(
            first(&addresses(3), pace(8), attempt, |_| false).await,
            Ok(1),
            "the first, if none is good"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_in_the_order_of_the_addresses_and_nothing_starts_late() {
        let attempt = |address: SocketAddr| async move {
            sleep(Duration::from_millis(1000 - u64::from(address.port()) * 300)).await;
            Err::<(), _>(refused(address))
        };
        let failures = first(&addresses(9), pace(1), attempt, |()| true).await.unwrap_err();
        let order: Vec<_> = failures.iter().map(|failure| failure.detail.as_str()).collect();
        assert_eq!(order, ["1", "2", "3"]);
    }
}
