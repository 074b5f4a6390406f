mod division;
mod quorum;
