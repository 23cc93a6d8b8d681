// Answers images with a SavedModel: the loader that TensorFlow Serving uses, and no Python.
//
//   answer_images MODEL SIGNATURE IMAGE...
//
// A line for each image: label, score, error, with tabs between them. Then one line with "p" and the
// probabilities of each image.

#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"

int main(int argc, char** argv) {
  tensorflow::SavedModelBundle bundle;
  auto status = tensorflow::LoadSavedModel({}, {}, argv[1], {"serve"},
                                           &bundle);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  const auto& signature = bundle.GetSignatures().at(argv[2]);
  const int count = argc - 3;
  tensorflow::Tensor images(tensorflow::DT_STRING, {count});
  for (int i = 0; i < count; ++i) {
    std::ifstream file(argv[3 + i], std::ios::binary);
    images.vec<tensorflow::tstring>()(i) =
        std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::vector<std::string> fetches;
  for (const char* name : {"classes", "scores", "error", "probabilities"})
    fetches.push_back(signature.outputs().at(name).name());
  std::vector<tensorflow::Tensor> answers;
  status = bundle.session->Run({{signature.inputs().at("images").name(), images}}, fetches, {},
                               &answers);
  if (!status.ok()) {
    std::cerr << status.ToString() << "\n";
    return 1;
  }
  const auto probabilities = answers[3].matrix<float>();
  std::cout << std::setprecision(9);
  for (int i = 0; i < count; ++i) {
    std::cout << answers[0].matrix<tensorflow::tstring>()(i, 0) << "\t"
              << answers[1].matrix<float>()(i, 0) << "\t"
              << answers[2].vec<tensorflow::tstring>()(i) << "\n";
  }
  for (int i = 0; i < count; ++i) {
    std::cout << "p";
    for (int j = 0; j < probabilities.dimension(1); ++j) std::cout << " " << probabilities(i, j);
    std::cout << "\n";
  }
}
