module callboard/nethttp

go 1.25
