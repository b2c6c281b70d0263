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

std::vector<std::int32_t> RowTracker::to_look_at(const std::int32_t* tokens,
                                                 const Tables& tables) const {
  std::vector<std::int32_t> found;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].table == kNoLook) continue;
    const int chars = plain_chars(rows[r].table, tokens[r], tables);
    if (next(rows[r], tokens[r], chars) == kLook) found.push_back(static_cast<std::int32_t>(r));
  }
  return found;
}

std::vector<std::int32_t> RowTracker::advance(const std::int32_t* tokens, const Tables& tables,
                                              const Columns& columns) {
  std::vector<std::int32_t> found;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    Row& row = rows[r];
    if (row.table == kNoLook) continue;
    const int chars = plain_chars(row.table, tokens[r], tables);
    const std::int32_t to = next(row, tokens[r], chars);
    if (to == kLook) {
      found.push_back(static_cast<std::int32_t>(r));
    } else if (to == kHere) {
      if (row.chars_left >= 0) row.chars_left -= chars;
    } else {
      const Place& place = places[to];
      row.told.push_back(tokens[r]);
      row.place = to;
      row.table = place.table;
      row.chars_left = place.chars_left;
      if (row.column != kUnknown) columns.masks[row.column * rows.size() + r] = place.mask;
      if (row.has_others) columns.table[r] = place.table;
    }
  }
  return found;
}

// The place where the token leads; kHere where it changes nothing, kLook where neither is known.
// `chars`: of a plain token in free text, else 0.
std::int32_t RowTracker::next(const Row& row, std::int32_t token, int chars) const {
  if (chars && (row.chars_left < 0 || row.chars_left >= chars)) return kHere;
  if (row.place == kNowhere || row.told.size() >= kMostTold) return kLook;
  const auto way = ways_.find(key_of(row.place, token));
  const std::int32_t to = way != ways_.end() ? way->second
                          : chars            ? places[row.place].behind_plain
                                             : kNowhere;
  return to == kNowhere || (row.needs_mask && places[to].mask == kUnknown) ? kLook : to;
}

}  // namespace shoal
