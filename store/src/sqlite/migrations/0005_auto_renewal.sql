-- When the next certificate of an order with automatic renewal is due (RFC 8739), in milliseconds since 1970. Orders in
-- other states, and those of which none is due any more, cost nothing.

CREATE INDEX orders_renewing
    ON orders (CASE WHEN json_valid(body) THEN json_extract(body, '$.state.next_at') END)
    WHERE state = 'renewing';
