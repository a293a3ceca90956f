//! Waiting for the answer of a task.

use tokio::sync::{mpsc, oneshot};

/// Waits for the answer to what was sent over `to`; `None` when nobody will give one.
///
/// That its sender is dropped is not enough to know. What is sent in the very moment in which the
/// receiver goes may stay in the channel as long as somebody could send more, and the sender of its answer
/// with it.
pub async fn answered<M, A>(to: &mpsc::Sender<M>, mut answer: oneshot::Receiver<A>) -> Option<A> {
    tokio::select! {
        biased;
        answer = &mut answer => answer.ok(),
        // What goes has answered whatever it is to answer.
        () = to.closed() => answer.try_recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_gone_answers_no_more() {
        let (to, task) = mpsc::channel::<()>(1);
        let (stuck, answer) = oneshot::channel::<u32>();
        let waits = tokio::spawn(async move { answered(&to, answer).await });
        tokio::task::yield_now().await;
        drop(task);
        assert_eq!(waits.await.unwrap(), None);
        drop(stuck);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_asks_in_the_moment_in_which_the_task_goes_learns_that() {
        for _ in 0..20_000 {
            let (to, mut task) = mpsc::channel(1);
            let going = tokio::spawn(async move { drop(task.try_recv()) });
            let (stuck, answer) = oneshot::channel::<u32>();
            let _refused = to.send(stuck).await;
            assert_eq!(answered(&to, answer).await, None);
            going.await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_that_was_given_counts() {
        let (to, task) = mpsc::channel::<()>(1);
        let (give, answer) = oneshot::channel();
        let waits = tokio::spawn(async move { answered(&to, answer).await });
        tokio::task::yield_now().await;
        give.send(7).unwrap();
        drop(task);
        assert_eq!(waits.await.unwrap(), Some(7));
        let (to, _task) = mpsc::channel::<()>(1);
        let (give, answer) = oneshot::channel::<u32>();
        drop(give);
        assert_eq!(answered(&to, answer).await, None);
    }
}
