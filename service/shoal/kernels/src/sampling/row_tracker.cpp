#include "sampling/row_tracker.h"

namespace shoal {
namespace {

// Characters of a plain token in free text, else 0.
int plain_chars(std::int32_t table, std::int32_t token, const RowTracker::Tables& tables) {
  if (table < 0 || token < 0 || static_cast<std::size_t>(token) >= tables.ids) return 0;
  return tables.num_chars[table * tables.ids + token];
}

}  // namespace

void RowTracker::add_way(std::int32_t from, std::int32_t token, std::int32_t to) {
  ways_[key_of(from, token)] = to;
}

void RowTracker::forget_places() {
  for (Row& row : rows) {
    row.place = kNowhere;
    row.told.clear();
  }
  places.clear();
  ways_.clear();
}

std::vector<std::int32_t> RowTracker::advance(const std::int32_t* tokens, const Tables& tables,
                                              const Columns& columns) {
  std::vector<std::int32_t> found;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    Row& row = rows[r];
    if (row.table == kNoLook) continue;
    const int chars = plain_chars(row.table, tokens[r], tables);
    if (chars && (row.chars_left < 0 || (row.chars_left -= chars) >= 0)) continue;
    if (!goes_on(row, way(row.place, tokens[r], chars > 0))) {
      found.push_back(static_cast<std::int32_t>(r));
      continue;
    }
    row.told.push_back(tokens[r]);
    if (row.column != kUnknown) columns.masks[row.column * rows.size() + r] = places[row.place].mask;
    if (row.has_others) columns.table[r] = row.table;
  }
  return found;
}

// Where the token leads; kNowhere where that is not known.
std::int32_t RowTracker::way(std::int32_t from, std::int32_t token, bool is_plain) const {
  if (from == kNowhere) return kNowhere;
  const auto known = ways_.find(key_of(from, token));
  if (known != ways_.end()) return known->second;
  return is_plain ? places[from].behind_plain : kNowhere;
}

// Is the row there now? Only where enough is known.
bool RowTracker::goes_on(Row& row, std::int32_t to) const {
  if (to == kNowhere || row.told.size() >= kMostTold) return false;
  const Place& place = places[to];
  if (row.needs_mask && place.mask == kUnknown) return false;
  row.place = to;
  row.table = place.table;
  row.chars_left = place.chars_left;
  return true;
}

}  // namespace shoal
