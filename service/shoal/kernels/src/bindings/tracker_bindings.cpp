// The RowTracker class of the bindings: checks indices and shapes, and keeps the arrays that it
// reads and writes. Called by row_tracker.py.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "sampling/row_tracker.h"

namespace shoal {
namespace {

using Ids = std::vector<std::int32_t>;
using Row = RowTracker::Row;

class Tracker {
 public:
  void begin(const Array<std::int32_t, 2>& masks, const Array<std::int32_t, 1>& table,
             const Ids& before) {
    require(masks.shape(1) == before.size() && table.shape(0) == before.size(),
            "arrays of rows differ in length");
    std::vector<Row> rows(before.size());
    for (std::size_t r = 0; r < before.size(); ++r) {
      if (before[r] < 0) continue;
      rows[r] = row_at(before[r]);
      require(rows[r].column < static_cast<std::int64_t>(masks.shape(0)), "a row's column is missing");
    }
    tracker_.rows = std::move(rows);
    masks_ = masks;
    table_ = table;
  }
  void set_tables(const Array<const std::uint8_t, 2>& num_chars) {
    const auto count = static_cast<std::int64_t>(num_chars.shape(0));
    for (const Row& row : tracker_.rows) require(row.table < count, "a row's table is missing");
    for (const auto& place : tracker_.places)
      require(place.table < count, "a place's table is missing");
    num_chars_ = num_chars;
  }
  void look_at(std::size_t row, std::int32_t column, bool has_others, bool needs_mask) {
    Row& looked_at = row_at(row);
    require(column >= -1 && column < static_cast<std::int64_t>(masks_->shape(0)),
            "there is no such column");
    Row fresh;
    fresh.table = RowTracker::kLook;
    fresh.column = column;
    fresh.has_others = has_others;
    fresh.needs_mask = needs_mask;
    looked_at = std::move(fresh);
  }
  void put(std::size_t row, std::int32_t table, std::int32_t chars_left, std::int32_t place) {
    check_table(table);
    require(place >= -1 && place < num_places(), "there is no such place");
    Row& put = row_at(row);
    put.table = table;
    put.chars_left = chars_left;
    put.place = place;
    put.told.clear();
  }
  std::pair<std::int32_t, Ids> take(std::size_t row) {
    Row& taken = row_at(row);
    return {std::exchange(taken.place, RowTracker::kNowhere), std::exchange(taken.told, {})};
  }
  std::int32_t add_place(std::int32_t table, std::int32_t chars_left, std::int32_t mask) {
    check_table(table);
    require(chars_left <= 0, "behind plain tokens it would not be that place");
    tracker_.places.push_back({table, chars_left, mask, RowTracker::kNowhere});
    return static_cast<std::int32_t>(num_places() - 1);
  }
  void set_mask(std::int32_t place, std::int32_t mask) {
    require(place >= 0 && place < num_places(), "there is no such place");
    tracker_.places[place].mask = mask;
  }
  void add_way(std::int32_t from, std::int32_t token, std::int32_t to) {
    require(from >= 0 && from < num_places() && to >= 0 && to < num_places(),
            "there is no such place");
    tracker_.add_way(from, token, to);
  }
  void add_plain_way(std::int32_t from, std::int32_t to, const Ids& except) {
    require(from >= 0 && from < num_places() && to >= 0 && to < num_places(),
            "there is no such place");
    for (const std::int32_t token : except) tracker_.add_way(from, token, RowTracker::kNowhere);
    tracker_.places[from].behind_plain = to;
  }
  void forget_places() { tracker_.forget_places(); }
  Ids to_look_at(const Int32s& tokens) const {
    check_tokens(tokens);
    return tracker_.to_look_at(tokens.data(), tables());
  }
  Ids advance(const Int32s& tokens) {
    check_tokens(tokens);
    if (tracker_.rows.empty()) return {};
    return tracker_.advance(tokens.data(), tables(), {masks_->data(), table_->data()});
  }

 private:
  Row& row_at(std::size_t row) {
    require(row < tracker_.rows.size(), "there is no such row");
    return tracker_.rows[row];
  }
  void check_table(std::int32_t table) const {
    require(table >= RowTracker::kLook && table < static_cast<std::int64_t>(num_tables()),
            "there is no such table");
  }
  void check_tokens(const Int32s& tokens) const {
    require(tokens.shape(0) == tracker_.rows.size(), "there must be a token for each row");
  }
  RowTracker::Tables tables() const {
    if (!num_chars_) return {nullptr, 0};
    return {num_chars_->data(), num_chars_->shape(1)};
  }
  std::size_t num_tables() const { return num_chars_ ? num_chars_->shape(0) : 0; }
  std::int64_t num_places() const { return static_cast<std::int64_t>(tracker_.places.size()); }

  RowTracker tracker_;
  std::optional<Array<const std::uint8_t, 2>> num_chars_;
  std::optional<Array<std::int32_t, 2>> masks_;
  std::optional<Array<std::int32_t, 1>> table_;
};

}  // namespace

void bind_tracker(nb::module_& module) {
  nb::class_<Tracker>(module, "RowTracker")
      .def(nb::init<>())
      .def("begin", &Tracker::begin, nb::arg().noconvert(), nb::arg().noconvert(), nb::arg())
      .def("set_tables", &Tracker::set_tables, nb::arg().noconvert())
      .def("look_at", &Tracker::look_at)
      .def("put", &Tracker::put)
      .def("take", &Tracker::take)
      .def("add_place", &Tracker::add_place)
      .def("set_mask", &Tracker::set_mask)
      .def("add_way", &Tracker::add_way)
      .def("add_plain_way", &Tracker::add_plain_way)
      .def("forget_places", &Tracker::forget_places)
      .def("to_look_at", &Tracker::to_look_at)
      .def("advance", &Tracker::advance);
}

}  // namespace shoal
