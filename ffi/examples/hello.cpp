// Logs a type of its own, fields and times, and reads them back.
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>

#define SPR_TARGET "shop"
#include <spillring.hpp>

namespace shop {
struct Order {
    int id;
    std::string item;
};
inline int spr_capture(const Order &order) noexcept { return order.id; }
} // namespace shop

int main() {
    spr_options options = SPR_OPTIONS_INIT;
    options.drain = 1;
    if (spr_init(&options) != SPR_OK)
        return 1;
    using namespace std::chrono_literals;
    shop::Order order{7, "water"};
    std::optional<int> discount;
    SPR_INFO("order {} of {:>8} at {:.2}, discount {}", order, order.item, 1.5, discount, spr::field("user", "ada"));
    SPR_WARN("delivered in {}", 1500ms);

    spr_reader *reader;
    if (spr_flush(5000) != SPR_OK || spr_reader_open(nullptr, &reader) != SPR_OK)
        return 1;
    spr_record record = SPR_RECORD_INIT;
    while (spr_reader_next(reader, 0, &record) == SPR_OK) {
        std::printf("%s: %s", record.target, record.message);
        spr_field field = SPR_FIELD_INIT;
        for (uint32_t i = 0; spr_reader_field(reader, i, &field) == SPR_OK; i++)
            std::printf(" %s=%s", field.name, field.text);
        std::puts("");
    }
    spr_reader_close(reader);
    return spr_shutdown(5000) != SPR_OK;
}
