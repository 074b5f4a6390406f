//! The page of metrics.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// As it was read.
pub struct Page(String);

impl Page {
    pub async fn read(port: u16) -> Result<Self, String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.map_err(|error| error.to_string())?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await.map_err(|error| error.to_string())?;
        Ok(Self(page))
    }

    /// The sum of a metric's series.
    pub fn sum(&self, name: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with(' ') || rest.starts_with('{')).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// The bound below which that part of a histogram's values are that came since an earlier page.
    pub fn quantile(&self, earlier: &Self, name: &str, part: f64) -> String {
        let buckets = |page: &Self| -> Vec<(String, f64)> {
            let start = format!("{name}_bucket{{le=\"");
            let lines = page.0.lines().filter_map(|line| line.strip_prefix(&start)?.split_once("\"} "));
            lines.map(|(bound, count)| (bound.to_owned(), count.parse().unwrap_or(0.0))).collect()
        };
        let (now, before) = (buckets(self), buckets(earlier));
        let since: Vec<(String, f64)> = now.into_iter().zip(before).map(|((bound, n), (_, b))| (bound, n - b)).collect();
        let all = since.last().map_or(0.0, |(_, count)| *count);
        since
            .into_iter()
            .find(|(_, count)| *count >= all * part)
            .map_or_else(|| "?".to_owned(), |(bound, _)| format!("< {bound}"))
    }
}
