#!/usr/bin/env python3
"""A program that logs through spillring, configured by logging's own dictConfig, and reads back what it
logged.

pip install --no-index target/wheel/spillring-*.whl && python ffi/examples/orders.py
"""

import contextvars
import gc
import logging
import logging.config

import spillring

customer = contextvars.ContextVar("customer")

logging.config.dictConfig({
    "version": 1,
    "handlers": {"log": {"class": "spillring.Handler", "channel": "orders", "drain": True,
                         "contextvars": ["__main__.customer"]}},
    "root": {"handlers": ["log"], "level": "INFO"},
})

log = logging.getLogger("shop.orders")


class Cart:
    """A finaliser that logs: from whichever thread the collector runs on, and harmless there."""

    def __del__(self):
        log.info("a cart was left behind")


def order(number: int, what: str, price: float) -> None:
    log.info("order %d of %s at %.2f", number, what, price, extra={"number": number, "price": price})
    if price < 0:
        raise ValueError(f"order {number} costs {price}")


def main() -> None:
    for name, orders in (("ada", [(1, "water", 1.5)]), ("bob", [(2, "bread", 3.25), (3, "air", -1.0)])):
        customer.set(name)
        cart = Cart()
        cart.itself = cart
        for number, what, price in orders:
            try:
                order(number, what, price)
            except ValueError:
                log.exception("refused")
    del cart
    gc.collect()

    # All of it is in the journal when this returns; the reader does not need to wait for that.
    if not spillring.flush(10):
        raise SystemExit("the drain did not keep up: is its disk full?")
    for r in spillring.Reader(start=100):
        if r.kind == "log":
            fields = {k: v for k, v in r.fields.items() if k != "exception"}
            print(f"{logging.getLevelName(r.level):8} {r.logger} {r.message} {fields}")
            if "exception" in r.fields:
                print("    " + r.fields["exception"].splitlines()[-1])


if __name__ == "__main__":
    main()
