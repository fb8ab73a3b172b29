#include "common/model/ops/library_product.h"

namespace fairway {

LibraryProducts library_products[2];

}  // namespace fairway
