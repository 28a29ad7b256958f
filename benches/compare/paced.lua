-- Pauses between an answer and the next request, evenly from none to twice the mean; the argument is
-- the mean in milliseconds.

local longest = 0

function init(arguments)
    longest = 2 * tonumber(arguments[1])
end

function delay()
    return math.random(0, longest)
end
