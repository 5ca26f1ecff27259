//! Bytes written in pieces.

use std::{io, time::Duration};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::plan::Piece;

/// Writes `bytes` from `start` on, piece by piece.
pub(super) async fn write(
    sink: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    pieces: &[Piece],
    mut start: usize,
    stop: usize,
) -> io::Result<()> {
    for piece in pieces {
        let end = piece.end.min(stop).min(bytes.len());
        if end <= start {
            continue;
        }
        sink.write_all(&bytes[start..end]).await?;
        sink.flush().await?;
        start = end;
        match piece.pause_ms {
            0 => tokio::task::yield_now().await,
            pause => tokio::time::sleep(Duration::from_millis(pause)).await,
        }
    }
    Ok(())
}
