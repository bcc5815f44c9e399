-- Enqueues a page to read with each request, another one each time; the token is the argument.

local pages = 0

function init(args)
    wrk.headers["Authorization"] = "Bearer " .. args[1]
    wrk.headers["Content-Type"] = "application/json"
end

function request()
    pages = pages + 1
    local body = string.format('{"args": {"url": "https://example.com/pages/%d"}}', pages)
    return wrk.format("POST", "/v1/tasks/pages.scrape", nil, body)
end

function done(summary, latency, requests)
    local wrong = summary.errors
    local errors = wrong.connect + wrong.read + wrong.write + wrong.status + wrong.timeout
    print(string.format(
        '{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}',
        summary.requests, summary.duration / 1e6, errors,
        latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
