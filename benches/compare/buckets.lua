-- Asks for an object of 1,000 buckets by turns, which lie evenly among all; the argument is their number.

local step, last, turn = 1, 0, 0

function init(arguments)
    local count = tonumber(arguments[1])
    step = math.max(1, math.floor(count / 1000))
    last = math.min(count, 1000)
end

function request()
    turn = (turn + 1) % last
    return wrk.format("GET", "/tenants/t" .. turn * step .. "/1KiB")
end
